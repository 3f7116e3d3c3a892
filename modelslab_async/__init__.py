"""Asyncio client for ModelsLab's Image to Video Ultra: a picture and a prompt become an mp4, never paid twice."""

from modelslab_async.client import BeyondDocumentationWarning, Client
from modelslab_async.download import SavedVideo
from modelslab_async.errors import (
    APIError,
    AuthenticationError,
    BadRequestError,
    ClientStateError,
    ConnectError,
    InsufficientCreditsError,
    InvalidRequestError,
    InvalidVideoError,
    JobDetachedError,
    JobError,
    JobFailedError,
    JobTimeoutError,
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
from modelslab_async.job import Job, JobEvent
from modelslab_async.protocol.lifecycle import JobState, Video
from modelslab_async.protocol.request import ImageToVideoUltra
from modelslab_async.protocol.wire import Balance
from modelslab_async.tally import Statistics
from modelslab_async.transport import Timeouts

__all__ = [
    "APIError",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BeyondDocumentationWarning",
    "Client",
    "ClientStateError",
    "ConnectError",
    "ImageToVideoUltra",
    "InsufficientCreditsError",
    "InvalidRequestError",
    "InvalidVideoError",
    "Job",
    "JobDetachedError",
    "JobError",
    "JobEvent",
    "JobFailedError",
    "JobState",
    "JobTimeoutError",
    "MalformedReplyError",
    "ModelsLabError",
    "NotFoundError",
    "Problem",
    "RateLimitError",
    "ReplyLostError",
    "SavedVideo",
    "ServerError",
    "Statistics",
    "SubmitUncertainError",
    "Timeouts",
    "TransportError",
    "Video",
]
