"""Asyncio client for ModelsLab's Image to Video Ultra: a picture and a prompt become an mp4, never paid twice."""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelslab_async.client import Client
    from modelslab_async.engine.config import InsecureTransportWarning
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
        RefInUseError,
        ReplyLostError,
        ServerError,
        SubmitUncertainError,
        TransportError,
    )
    from modelslab_async.job.future import Job
    from modelslab_async.journal.base import Journal
    from modelslab_async.media.saved import SavedVideo
    from modelslab_async.protocol.lifecycle import JobEvent, JobState, Video
    from modelslab_async.protocol.operations import OPERATIONS, Operation
    from modelslab_async.protocol.pricing import Budget, Estimate, Plan, PriceList
    from modelslab_async.protocol.record import Charge, JobRecord
    from modelslab_async.protocol.request import (
        ImageToVideo,
        ImageToVideoUltra,
        Request,
        RequestParams,
        TextToVideo,
        TextToVideoUltra,
        VideoFusion,
    )
    from modelslab_async.protocol.statistics import Statistics
    from modelslab_async.protocol.timeouts import Timeouts
    from modelslab_async.protocol.wire import Asset, Balance

_MODULES = {
    "APIError": "modelslab_async.errors",
    "Asset": "modelslab_async.protocol.wire",
    "AuthenticationError": "modelslab_async.errors",
    "BadRequestError": "modelslab_async.errors",
    "Balance": "modelslab_async.protocol.wire",
    "BeyondDocumentationWarning": "modelslab_async.engine.engine",
    "Budget": "modelslab_async.protocol.pricing",
    "BudgetExceededError": "modelslab_async.errors",
    "Charge": "modelslab_async.protocol.record",
    "Client": "modelslab_async.client",
    "ClientStateError": "modelslab_async.errors",
    "ConnectError": "modelslab_async.errors",
    "Estimate": "modelslab_async.protocol.pricing",
    "ImageToVideo": "modelslab_async.protocol.request",
    "ImageToVideoUltra": "modelslab_async.protocol.request",
    "InsecureTransportWarning": "modelslab_async.engine.config",
    "InsufficientCreditsError": "modelslab_async.errors",
    "InvalidRequestError": "modelslab_async.errors",
    "InvalidVideoError": "modelslab_async.errors",
    "Job": "modelslab_async.job.future",
    "JobDetachedError": "modelslab_async.errors",
    "JobError": "modelslab_async.errors",
    "JobEvent": "modelslab_async.protocol.lifecycle",
    "JobFailedError": "modelslab_async.errors",
    "JobRecord": "modelslab_async.protocol.record",
    "JobState": "modelslab_async.protocol.lifecycle",
    "JobTimeoutError": "modelslab_async.errors",
    "Journal": "modelslab_async.journal.base",
    "JournalError": "modelslab_async.errors",
    "MalformedReplyError": "modelslab_async.errors",
    "ModelsLabError": "modelslab_async.errors",
    "NotFoundError": "modelslab_async.errors",
    "OPERATIONS": "modelslab_async.protocol.operations",
    "Operation": "modelslab_async.protocol.operations",
    "Plan": "modelslab_async.protocol.pricing",
    "PriceList": "modelslab_async.protocol.pricing",
    "Problem": "modelslab_async.errors",
    "RateLimitError": "modelslab_async.errors",
    "RefInUseError": "modelslab_async.errors",
    "Recovery": "modelslab_async.engine.recovery",
    "ReplyLostError": "modelslab_async.errors",
    "Request": "modelslab_async.protocol.request",
    "RequestParams": "modelslab_async.protocol.request",
    "SavedVideo": "modelslab_async.media.saved",
    "ServerError": "modelslab_async.errors",
    "Statistics": "modelslab_async.protocol.statistics",
    "SubmitUncertainError": "modelslab_async.errors",
    "TextToVideo": "modelslab_async.protocol.request",
    "TextToVideoUltra": "modelslab_async.protocol.request",
    "Timeouts": "modelslab_async.protocol.timeouts",
    "TransportError": "modelslab_async.errors",
    "Video": "modelslab_async.protocol.lifecycle",
    "VideoFusion": "modelslab_async.protocol.request",
}
"""Where each public name is defined. Each is imported at its first use, so that the command's help stays fast."""

__version__ = "0.1.0"
"""The version of the package. Its metadata takes it from here."""

__all__ = [
    "OPERATIONS",
    "APIError",
    "Asset",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "BeyondDocumentationWarning",
    "Budget",
    "BudgetExceededError",
    "Charge",
    "Client",
    "ClientStateError",
    "ConnectError",
    "Estimate",
    "ImageToVideo",
    "ImageToVideoUltra",
    "InsecureTransportWarning",
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
    "Operation",
    "Plan",
    "PriceList",
    "Problem",
    "RateLimitError",
    "Recovery",
    "RefInUseError",
    "ReplyLostError",
    "Request",
    "RequestParams",
    "SavedVideo",
    "ServerError",
    "Statistics",
    "SubmitUncertainError",
    "TextToVideo",
    "TextToVideoUltra",
    "Timeouts",
    "TransportError",
    "Video",
    "VideoFusion",
    "__version__",
]

logging.getLogger("modelslab_async").addHandler(logging.NullHandler())  # the application decides what it shows


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_MODULES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
