"""Asyncio client for ModelsLab's Image to Video Ultra: a picture and a prompt become an mp4, never paid twice."""

import logging

from modelslab_async.client import Client
from modelslab_async.engine.engine import BeyondDocumentationWarning
from modelslab_async.engine.recovery import Recovery
from modelslab_async.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientStateError,
    ConnectError,
    InsufficientCreditsError,
    InvalidRequestError,
    InvalidVideoError,
    JobDetachedError,
    JobError,
    JobFailedError,
    JobTimeoutError,
    JournalError,
    MalformedReplyError,
    ModelsLabError,
    NotFoundError,
    Problem,
    RateLimitError,
    ReplyLostError,
    ServerError,
    SubmitUncertainError,
    TransportError,
)
from modelslab_async.job.future import Job
from modelslab_async.journal.base import Journal
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobEvent, JobState, Video
from modelslab_async.protocol.pricing import Budget, Estimate, Plan, PriceList
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import ImageToVideoUltra
from modelslab_async.protocol.statistics import Statistics
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.protocol.wire import Asset, Balance

logging.getLogger("modelslab_async").addHandler(logging.NullHandler())  # the application decides what it shows

__all__ = [
    "APIError",
    "Asset",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BeyondDocumentationWarning",
    "Budget",
    "BudgetExceededError",
    "Client",
    "ClientStateError",
    "ConnectError",
    "Estimate",
    "ImageToVideoUltra",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "InvalidVideoError",
    "Job",
    "JobDetachedError",
    "JobError",
    "JobEvent",
    "JobFailedError",
    "JobRecord",
    "JobState",
    "JobTimeoutError",
    "Journal",
    "JournalError",
    "MalformedReplyError",
    "ModelsLabError",
    "NotFoundError",
    "Plan",
    "PriceList",
    "Problem",
    "RateLimitError",
    "Recovery",
    "ReplyLostError",
    "SavedVideo",
    "ServerError",
    "Statistics",
    "SubmitUncertainError",
    "Timeouts",
    "TransportError",
    "Video",
]
