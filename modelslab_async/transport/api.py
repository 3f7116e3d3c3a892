"""Client for the service's HTTP API. Every request passes through it and is counted; posts carry the key."""

import asyncio
import logging
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from itertools import islice
from typing import TypeVar

from modelslab_async.errors import APIError, ModelsLabError, TransportError
from modelslab_async.protocol import retry, wire
from modelslab_async.protocol.reply import Body, HttpReply, Malformed, Refused
from modelslab_async.protocol.request import Deployment
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.statistics import Counters, RequestKind
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.transport.base import Incoming, Transport

_log = logging.getLogger("modelslab_async")
_MAX_LOGGED_NOTES = 50
_T = TypeVar("_T")


class ServiceApi:
    """Make requests to the service for one `Client`, with its key, timeouts and random numbers.

    `closing` is set once no more jobs are to be submitted.
    """

    def __init__(
        self,
        transport: Transport,
        key: ApiKey,
        base_url: str,
        deployment: Deployment,
        timeouts: Timeouts,
        rng: random.Random,
    ) -> None:
        self.transport, self.key, self.base_url, self.deployment = transport, key, base_url, deployment
        self.timeouts, self.rng = timeouts, rng
        self.counters = Counters()
        self.closing = asyncio.Event()
        self.bare_body = wire.encode_body({}, self.key)
        """The body of a request that has no parameters: only the key."""
        self._logged_notes = set[str]()

    def post(self, kind: RequestKind, path: str, body: bytes, timeout: float | None) -> Awaitable[HttpReply]:
        """Post once, within *timeout* seconds. Raise TransportError."""
        self.counters.requests[kind] += 1
        is_paid = kind == "submit"
        return self.transport.post(self.base_url + path, body, timeout=finite(timeout), own_connection=is_paid)

    def get(self, url: str, *, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Incoming]:
        """Get a file, without the key. Raise TransportError."""
        self.counters.requests["download"] += 1
        return self.transport.get(url, headers=headers, timeout=self.timeouts.read)

    def probe(self, url: str, length: int, timeout: float | None) -> Awaitable[HttpReply]:
        """Get the first *length* bytes of a file, without the key, within *timeout* seconds. Raise TransportError."""
        self.counters.requests["probe"] += 1
        return self.transport.head(url, length=length, timeout=finite(timeout))

    def backoff(self) -> Iterator[float]:
        """Yield the seconds to wait after each failure of a series."""
        return retry.delays(self.rng)

    async def fetch(self, operation: str, job_id: str, timeout: float | None) -> wire.FetchReply | TransportError:
        """Ask the service how a job is, within *timeout* seconds. Return a TransportError instead of raising it."""
        path = wire.fetch_path(self.deployment, job_id, operation)
        try:
            return wire.decode_fetch(await self.post("fetch", path, self.bare_body, timeout), self.key)
        except TransportError as error:
            return error

    async def call(
        self,
        path: str,
        body: bytes,
        pick: Callable[[Body], _T],
        *,
        attempts: int = retry.CALL_ATTEMPTS,
        timeout: float | None = None,
    ) -> _T:
        """Make a call that costs nothing, and return what *pick* takes from the reply.

        timeout: the longest wait for a reply, in seconds; None for `Timeouts.fetch`.

        Failures that may pass are retried, unless the service asks for a long wait. Raise APIError or TransportError
        after the last attempt.
        """
        delays = islice(self.backoff(), attempts - 1)
        longest = self.timeouts.fetch if timeout is None else timeout
        while True:
            error: ModelsLabError
            try:
                reply = wire.decode(await self.post("call", path, body, longest), self.key, pick)
                if not isinstance(reply, Refused | Malformed):
                    return reply
                error = wire.error_of(reply)
            except TransportError as lost:
                error = lost
            error.charged = False
            delay = next(delays, None)
            pause = retry_after(error)
            if delay is None or pause > retry.MAX_RETRY_AFTER or not retry.may_pass(error):
                raise error
            await asyncio.sleep(max(delay, pause))

    async def upload(self, data: bytes, mime_type: str) -> str:
        """Upload a picture or an mp4. Return the URL that the service gives it. Raise APIError or TransportError."""
        path = wire.VIDEO_UPLOAD_PATH if mime_type.startswith("video/") else wire.UPLOAD_PATH
        loop = asyncio.get_running_loop()
        body = await loop.run_in_executor(None, wire.encode_upload, data, mime_type, self.key)
        return await self.call(path, body, wire.upload, timeout=self.timeouts.submit)

    def log_notes(self, notes: tuple[str, ...]) -> None:
        """Log oddities of a reply: each note once, and 50 different notes at most."""
        for note in notes:
            if note not in self._logged_notes and len(self._logged_notes) < _MAX_LOGGED_NOTES:
                self._logged_notes.add(note)
                _log.warning("unexpected reply from the service (logged once): %s", note)


def finite(seconds: float | None) -> float | None:
    """Return a timeout, with None in place of infinity."""
    return None if seconds is None or math.isinf(seconds) else seconds


def retry_after(error: ModelsLabError) -> float:
    """Return the seconds for which the service asks to be left alone; 0 if it does not ask."""
    return error.retry_after or 0.0 if isinstance(error, APIError) else 0.0
