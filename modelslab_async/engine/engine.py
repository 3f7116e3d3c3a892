"""A session: how a client begins, to which event loop it belongs, how it ends, and calls that cost nothing."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import aiohttp

from modelslab_async.aio import uninterrupted
from modelslab_async.engine.account import Account, Common, make_account
from modelslab_async.engine.config import check_arguments, check_key, proxies_of, require_key, wrapped_key
from modelslab_async.engine.saver import MAX_SAVES
from modelslab_async.errors import ClientStateError
from modelslab_async.journal.base import Journal
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.polling.schedule import DEFAULT_POLL_COST, RateLimiter, gaps_at
from modelslab_async.protocol import wire
from modelslab_async.protocol.pricing import Budget, PriceList
from modelslab_async.protocol.reply import Body
from modelslab_async.protocol.request import Deployment, LimitsMode
from modelslab_async.protocol.secret import ApiKey, hides_key
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.telemetry import Telemetry
from modelslab_async.transport.aiohttp import AiohttpTransport
from modelslab_async.transport.base import Transport

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook

DEFAULT_MAX_IN_FLIGHT = 5
"""What a pay-as-you-go account may have queued or processing; Standard has 10, Premium 15."""
DEFAULT_MAX_POLLS_PER_SECOND = 20.0
"""More than the jobs of any account need: five jobs are looked at about once a second, all together."""
_T = TypeVar("_T")


@hides_key
class Session:
    """What a `Client` is before it does anything; for the arguments see there."""

    _api_key = ApiKey("")
    """No key, until one was passed."""

    def __init__(
        self,
        api_key: str | ApiKey | None = None,
        *,
        base_url: str = wire.DEFAULT_BASE_URL,
        enterprise: bool = False,
        max_in_flight: int = DEFAULT_MAX_IN_FLIGHT,
        limits: LimitsMode = "refuse",
        wait: WaitStrategy = "auto",
        poll_cost: float = DEFAULT_POLL_COST,
        max_polls_per_second: float | None = DEFAULT_MAX_POLLS_PER_SECOND,
        journal: str | os.PathLike[str] | Journal | None = None,
        budget: Budget | None = None,
        prices: PriceList | None = None,
        timeouts: Timeouts | None = None,
        webhook: Webhook | None = None,
        telemetry: Telemetry | None = None,
        session: aiohttp.ClientSession | None = None,
        proxy: str | None = None,
        rng: random.Random | None = None,
        transport: Transport | None = None,
    ) -> None:
        self._api_key = key = wrapped_key(api_key)
        del api_key  # a traceback from here on may be shown with local variables
        require_key(key)
        check_arguments(locals(), key)
        proxies = proxies_of(proxy, base_url, is_session_passed_in=session is not None)
        timeouts = timeouts or Timeouts()
        common = Common(
            base_url=base_url.rstrip("/"),
            deployment=Deployment.ENTERPRISE if enterprise else Deployment.V6,
            limits=limits,
            wait=wait,
            estimator=DurationEstimator(gaps_at(poll_cost)),
            rate_limiter=RateLimiter(max_polls_per_second),
            journal=_sqlite(journal) if isinstance(journal, str | os.PathLike) else journal,
            prices=prices or PriceList(),
            timeouts=timeouts,
            webhook=webhook,
            telemetry=telemetry,
            rng=rng or random.Random(),
            transport=transport or AiohttpTransport(timeouts, session=session, proxies=proxies),
            max_in_flight=max_in_flight,
            saves=asyncio.Semaphore(MAX_SAVES),
        )
        self._begin(common, make_account(common, key, budget=budget, max_in_flight=max_in_flight), parent=None)

    def _begin(self, common: Common, own: Account, *, parent: Session | None) -> None:
        self._common, self._parent, self._api_key = common, parent, own.api.key
        self._api, self._recorder, self._saver, self._dispatcher, self._recoverer, self._deliveries = own
        self._accounts: dict[str, Session] = {}
        self._opening = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = self._closed = False

    def __repr__(self) -> str:
        slots = self._dispatcher.slots
        return f"<Client {self.base_url} jobs={len(self._dispatcher.jobs)} in_flight={slots.taken}/{slots.cap}>"

    async def __aenter__(self) -> Self:
        """Raises JournalError for a journal that cannot be kept, BudgetExceededError for a wallet that is too small."""
        self._enter(opening=True)
        try:
            await self._recorder.open()
            await self._recorder.check_balance(self.balance)
            await self._dispatcher.count_slots_used_elsewhere()
        except BaseException:
            await self.aclose(drain=False)
            raise
        if self._common.webhook and self._recorder.journal:
            self._deliveries.listen()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(drain=kind is None)

    async def aclose(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the client, in one of three ways.

        - By default all jobs are waited for first, also those that still wait for their turn.
        - With *timeout*, in seconds, no job is submitted any more; those that run are waited for, for so long at most.
        - Without *drain*, no job is submitted any more, and none is waited for.

        Replies to submits under way are always waited for, within `Timeouts.submit`, however often the caller is
        cancelled: they say what is paid for. Then the client detaches from the jobs that run. With a journal, a job
        that was not sent stays WAITING there: the next client finds it in `recover().unsent` and sends it by
        `resubmit`. Without one it is cancelled.
        """
        self._closing = True
        try:
            if drain and self._ending is None:
                await self._drain(timeout)
        finally:
            if self._ending is None:
                self._ending = asyncio.create_task(self._end(), name="modelslab_async close")
            await uninterrupted(self._ending)

    async def _drain(self, timeout: float | None) -> None:
        dispatchers = [each._dispatcher for each in (self, *self._accounts.values())]
        if timeout is not None:
            for each in dispatchers:
                each.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(each.drain() for each in dispatchers))

    async def _end(self) -> None:
        async with AsyncExitStack() as stack:
            stack.callback(self._leave)
            if self._parent is None:
                stack.push_async_callback(self._common.transport.aclose)
            for close in (self._recorder.close, self._dispatcher.let_go, self._deliveries.close):  # the last one first
                stack.push_async_callback(close)
            stack.callback(setattr, self, "_closed", True)
            for account in self._accounts.values():
                stack.push_async_callback(account.aclose, drain=False)

    def _leave(self) -> None:
        if self._common.webhook:
            self._common.webhook.unregister(self._deliveries)

    @property
    def base_url(self) -> str:
        """Where requests go."""
        return self._common.base_url

    @property
    def prices(self) -> PriceList:
        """What calls cost."""
        return self._recorder.prices

    async def balance(self) -> wire.Balance:
        """What the account's wallet holds. Raises APIError or TransportError."""
        return await self._call(wire.BALANCE_PATH, self._api.bare_body, wire.balance)

    async def queue_depth(self) -> int:
        """How many jobs the account has queued or processing, of all endpoints and processes.

        The service takes at most 30 such calls a minute. Raises APIError or TransportError.
        """
        return await self._call(wire.QUEUE_DEPTH_PATH, self._api.bare_body, wire.queue_depth)

    async def _call(self, path: str, body: bytes, pick: Callable[[Body], _T]) -> _T:
        self._enter(closing_too=True)
        return await self._api.call(path, body, pick)

    def _enter(self, *, closing_too: bool = False, opening: bool = False) -> None:
        """Hold the client to one event loop, and to its lifetime."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientStateError("a Client works inside a running event loop: call it from async code") from None
        if loop is not (self._loop or loop):
            raise ClientStateError("this Client works in another event loop: make one for each loop")
        is_closing = self._closing or (self._parent is not None and self._parent._closing)
        if self._closed or (is_closing and not closing_too):
            raise ClientStateError("this Client is closed: make a new one")
        if self._recorder.journal and not (self._recorder.is_open or opening or closing_too):
            raise ClientStateError("a Client with a journal is used as: async with Client(journal=...) as client")
        if self._loop is None:
            check_key(self._api_key, self.base_url)
            self._loop = loop
            if self._common.webhook:
                self._common.webhook.register(self._deliveries, self._recorder.account)


def _sqlite(path: str | os.PathLike[str]) -> Journal:
    from modelslab_async.journal.sqlite import SqliteJournal  # noqa: PLC0415 - most clients have none

    return SqliteJournal(Path(path))
