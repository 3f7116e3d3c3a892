"""Use a client in a web application: open and close it with the application, and stream the progress of its jobs.

This package imports no web framework but aiohttp. `modelslab_async.web.fastapi` has the dependency for FastAPI.
"""

from modelslab_async.web.asgi import EndResponses
from modelslab_async.web.lifespan import CLIENT, GRACE, OnRecovered, cleanup_ctx, client_of, lifespan, with_client
from modelslab_async.web.public import PublicCode, PublicError, public_error
from modelslab_async.web.streams import EVERY, HEARTBEAT, EventStream, event_stream

__all__ = [
    "CLIENT",
    "EVERY",
    "GRACE",
    "HEARTBEAT",
    "EndResponses",
    "EventStream",
    "OnRecovered",
    "PublicCode",
    "PublicError",
    "cleanup_ctx",
    "client_of",
    "event_stream",
    "lifespan",
    "public_error",
    "with_client",
]
