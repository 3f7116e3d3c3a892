"""The line to the service: every request of a client goes through here, is counted, and carries the key."""

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
_MOST_NOTES = 50
_T = TypeVar("_T")


class ServiceApi:
    """One for each Client. `closing` is set once nothing more is to be submitted."""

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
        """Just the key."""
        self._noted = set[str]()

    def post(self, kind: RequestKind, path: str, body: bytes, timeout: float | None) -> Awaitable[HttpReply]:
        """Post, once. Raises TransportError."""
        self.counters.requests[kind] += 1
        is_paid = kind == "submit"
        return self.transport.post(self.base_url + path, body, timeout=finite(timeout), own_connection=is_paid)

    def get(self, url: str, *, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Incoming]:
        """Get a file. No key goes along. Raises TransportError."""
        self.counters.requests["download"] += 1
        return self.transport.get(url, headers=headers, timeout=self.timeouts.read)

    def head(self, url: str, length: int, timeout: float | None) -> Awaitable[HttpReply]:
        """The first bytes of a file. No key goes along. Raises TransportError."""
        self.counters.requests["probe"] += 1
        return self.transport.head(url, length=length, timeout=finite(timeout))

    def backoff(self) -> Iterator[float]:
        """The waits of one series of failures."""
        return retry.delays(self.rng)

    async def fetch(self, job_id: str, timeout: float | None) -> wire.FetchReply | TransportError:
        """Ask after a job."""
        path = wire.fetch_path(self.deployment, job_id)
        try:
            return wire.decode_fetch(await self.post("fetch", path, self.bare_body, timeout), self.key)
        except TransportError as error:
            return error

    async def call(self, path: str, body: bytes, pick: Callable[[Body], _T]) -> _T:
        """A call that costs nothing, repeated while its failure may pass."""
        waits = islice(self.backoff(), retry.CALL_ATTEMPTS - 1)
        while True:
            error: ModelsLabError
            try:
                reply = wire.decode(await self.post("call", path, body, self.timeouts.fetch), self.key, pick)
                if not isinstance(reply, Refused | Malformed):
                    return reply
                error = wire.error_of(reply)
            except TransportError as lost:
                error = lost
            error.charged = False
            wait = next(waits, None)
            if wait is None or not retry.may_pass(error):
                raise error
            await asyncio.sleep(max(wait, wished(error)))

    def note(self, notes: tuple[str, ...]) -> None:
        """Tell an oddity once."""
        for note in notes:
            if note not in self._noted and len(self._noted) < _MOST_NOTES:
                self._noted.add(note)
                _log.warning("the service says something odd, told once: %s", note)


def finite(seconds: float | None) -> float | None:
    """None for never."""
    return None if seconds is None or math.isinf(seconds) else seconds


def wished(error: ModelsLabError) -> float:
    """Seconds for which the service wants to be left alone."""
    return error.retry_after or 0.0 if isinstance(error, APIError) else 0.0
