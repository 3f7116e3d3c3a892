"""Run the jobs of one account: lifetime, submits, and calls that cost nothing."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from typing import TypeVar

import attrs

from modelslab_async.aio import uninterrupted
from modelslab_async.engine.config import SharedResources, check_key
from modelslab_async.engine.deliveries import DeliveryHandler
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.poller import Poller
from modelslab_async.engine.recorder import Recorder, account_fingerprint, request_from_record
from modelslab_async.engine.recovery import SEE_CANDIDATES, Recoverer, Recovery, new_ref
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.errors import BudgetExceededError, ClientStateError, InvalidRequestError, Problem
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun
from modelslab_async.media import images
from modelslab_async.polling.estimator import PollValue
from modelslab_async.polling.schedule import urgency
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.pricing import Budget
from modelslab_async.protocol.problems import refusal, wrong
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.reply import Body
from modelslab_async.protocol.request import Deployment, ImageInput, ImageToVideoUltra
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.slots import Slots
from modelslab_async.telemetry import Notifier
from modelslab_async.transport.api import ServiceApi

_T = TypeVar("_T")


class BeyondDocumentationWarning(UserWarning):
    """A request is sent although it goes beyond the documented limits, because of `Client(limits="warn")`."""


class Engine:
    """The parts that run one account's jobs, on resources that several accounts may share.

    parent: the engine whose resources this one uses; it closes this one. None if the resources are its own.
    """

    def __init__(
        self,
        shared: SharedResources,
        key: ApiKey,
        *,
        budget: Budget | None,
        max_in_flight: int,
        parent: Engine | None = None,
    ) -> None:
        self.shared, self.key, self.parent = shared, key, parent
        self.api = ServiceApi(shared.transport, key, shared.base_url, shared.deployment, shared.timeouts, shared.rng)
        self.recorder = Recorder(
            key, shared.base_url, shared.journal, budget, shared.prices, shares_journal=parent is not None
        )
        slots = Slots[JobRun](max_in_flight)
        notifier = Notifier(shared.telemetry)
        webhook_health = WebhookHealth(PollValue(lambda: urgency(slots.waiting, slots.cap)))
        poller = Poller(self.api, notifier, shared.wait, shared.estimator, shared.rate_limiter, webhook_health)
        self.saver = Saver(self.api, notifier, self.recorder, shared.downloads)
        self.dispatcher = Dispatcher(Submitter(self.api, notifier, self.recorder), poller, self.saver, notifier, slots)
        self.recoverer = Recoverer(self.recorder, self.dispatcher)
        self.deliveries = DeliveryHandler(self.dispatcher, self.recorder, self.recoverer, webhook_health)
        self.children: dict[str, Engine] = {}
        """The engines of other accounts on these resources, by account."""
        self.is_closing = self.is_closed = False
        self._opening_child = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def account(self) -> str:
        """The account's fingerprint, as the journal's rows have it."""
        return self.recorder.account

    async def open(self) -> None:
        """Open the journal and check the wallet. Raises JournalError, BudgetExceededError, APIError, TransportError."""
        self.require_usable(opening=True)
        try:
            await self.recorder.open()
            await self.recorder.check_balance(self.balance)
            await self.dispatcher.count_slots_used_elsewhere()
        except BaseException:
            await self.close(drain=False)
            raise
        if self.shared.webhook and self.recorder.journal:
            self.deliveries.start_reading()

    async def child(self, key: ApiKey, *, budget: Budget | None, max_in_flight: int) -> Engine:
        """Return the open engine of another account on the same resources. The same key gives the same engine."""
        account = account_fingerprint(key, self.shared.base_url)
        async with self._opening_child:
            child = self.children.get(account)
            if child is None or child.is_closed:
                child = Engine(self.shared, key, budget=budget, max_in_flight=max_in_flight, parent=self)
                self.children[account] = child  # from here on it closes with this engine
                await child.open()
        child.require_usable()  # it may be closing
        return child

    def require_usable(self, *, while_closing: bool = False, opening: bool = False) -> None:
        """Raise ClientStateError if the engine is closed, not open yet, or used from another event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ClientStateError("a Client needs a running event loop (hint: call it from async code)") from None
        if loop is not (self._loop or loop):
            raise ClientStateError("this Client belongs to another event loop (hint: make one for each loop)")
        is_closing = self.is_closing or (self.parent is not None and self.parent.is_closing)
        if self.is_closed or (is_closing and not while_closing):
            raise ClientStateError("this Client is closed (hint: make a new one)")
        if self.recorder.journal and not (self.recorder.is_open or opening or while_closing):
            hint = "use async with Client(journal=...) as client"
            raise ClientStateError(f"a Client with a journal must be entered before it is used (hint: {hint})")
        if self._loop is None:
            check_key(self.key, self.shared.base_url)
            self._loop = loop
            if self.shared.webhook:
                self.shared.webhook.register(self.deliveries, self.account)

    async def close(self, *, drain: bool, timeout: float | None = None) -> None:
        """Close the engine, see `Client.aclose`."""
        self.is_closing = True
        try:
            if drain and self._ending is None:
                await self._drain(timeout)
        finally:
            if self._ending is None:
                self._ending = asyncio.create_task(self._end(), name="modelslab_async close")
            await uninterrupted(self._ending)

    async def _drain(self, timeout: float | None) -> None:
        dispatchers = [each.dispatcher for each in (self, *self.children.values())]
        if timeout is not None:
            for each in dispatchers:
                each.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(each.drain() for each in dispatchers))

    async def _end(self) -> None:
        async with AsyncExitStack() as stack:  # the last one that is pushed runs first
            if self.shared.webhook:
                stack.callback(self.shared.webhook.unregister, self.deliveries)
            if self.parent is None:
                stack.push_async_callback(self.shared.transport.aclose)
            for close in (self.recorder.close, self.dispatcher.detach, self.deliveries.close):
                stack.push_async_callback(close)
            stack.callback(setattr, self, "is_closed", True)
            for child in self.children.values():
                stack.push_async_callback(child.close, drain=False)

    def submit(self, request: ImageToVideoUltra, problems: Sequence[Problem] = ()) -> JobRun:
        """Check a request, reserve its price, and queue its job. *problems* are known already.

        A job that the budget does not allow is REFUSED at once.
        """
        self.require_usable()
        image = self.check(request, problems, stacklevel=5)
        ref = request.track_id or new_ref()
        own_webhook = self.shared.webhook.url(ref, self.account) if self.shared.webhook else None
        has_webhook = own_webhook is not None and request.webhook in (None, own_webhook)
        if has_webhook:
            request = attrs.evolve(request, webhook=own_webhook)
        run = JobRun(self.dispatcher, request, ref, image=image, has_webhook=has_webhook)
        try:
            self.recorder.begin(run)
        except BudgetExceededError as error:
            run.advance(lifecycle.Rejected(error))
        else:
            self.dispatcher.enqueue(run)
        return run

    def refused(self, request: ImageToVideoUltra | None, ref: str, error: InvalidRequestError) -> JobRun:
        """Return a job that ended before it was sent."""
        run = JobRun(self.dispatcher, request, ref)
        run.advance(lifecycle.Rejected(error))
        return run

    def check(
        self, request: ImageToVideoUltra, known_problems: Sequence[Problem] = (), *, stacklevel: int
    ) -> images.Image:
        """Return the picture of a request.

        Raises InvalidRequestError with every problem, or warns of those beyond the documentation, as `limits` says. A
        warning shows the line of the caller that is *stacklevel* calls away.
        """
        problems = self.key.problems_in(track_id=request.track_id) + check(request, self.api.deployment)
        image = None
        try:
            image = images.examine(request, self.api.deployment)
        except InvalidRequestError as error:
            problems += error.problems
        if isinstance(request.track_id, str) and request.track_id in self.dispatcher.jobs:
            requirement = "cannot be used twice at a time: a job with this track_id is open"
            problems.append(wrong("track_id", request.track_id, requirement, "choose another, or omit it"))
        known = {problem.field for problem in known_problems}
        problems = [*known_problems, *(problem for problem in problems if problem.field not in known)]
        limits = self.shared.limits
        if problems and (limits == "refuse" or not all(problem.overridable for problem in problems)):
            raise InvalidRequestError(problems)
        for problem in map(self.key.redact_problem, problems if limits == "warn" else ()):
            what = f"{problem.field}={problem.value}: {problem.requirement}"
            warnings.warn(what, BeyondDocumentationWarning, stacklevel=stacklevel)
        assert image  # noqa: S101 - without one there was a problem
        return image

    async def balance(self) -> wire.Balance:
        """Return what the account's wallet holds."""
        return await self.call(wire.BALANCE_PATH, self.api.bare_body, wire.balance)

    async def call(self, path: str, body: bytes, pick: Callable[[Body], _T]) -> _T:
        """Make a call that costs nothing, and return what *pick* takes from the reply."""
        self.require_usable(while_closing=True)
        return await self.api.call(path, body, pick)

    async def attach(self, ref_or_id: str) -> Job:
        """Return the job with this ref or id."""
        self.require_usable()
        self.key.require_absent(ref_or_id=ref_or_id)
        if not ref_or_id:
            raise refusal("ref_or_id", ref_or_id, "must not be empty", "pass the id that the service gave, or a ref")
        return await self.recoverer.attach(ref_or_id)

    async def recover(self, refs: Collection[str] | None, *, search: bool) -> Recovery:
        """Take up what earlier clients left in the journal."""
        self.require_usable()
        for ref in refs or ():
            self.key.require_absent(refs=ref)
        assets: tuple[wire.Asset, ...] = ()
        if search and self.recoverer.journal:
            assets = await self.call(wire.ASSETS_PATH, wire.encode_assets(self.key), wire.assets)
        candidates = await self.recoverer.assets_without_row(assets)
        return (await self.recoverer.recover(refs))._replace(candidates=candidates)

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over the job of a journal row and resume it."""
        self.require_usable()
        return await self.recoverer.resume(record)

    async def resubmit(self, records: Iterable[JobRecord]) -> list[JobRun]:
        """Submit jobs that an earlier client never sent."""
        self.require_usable()
        unsent = [await self.recoverer.unsent(record) for record in records]
        return [self._resubmit(record) for record in unsent]

    def _resubmit(self, record: JobRecord) -> JobRun:
        request = request_from_record(record)
        if request is None or not (record.picture or {}).get("where"):
            requirement = "cannot be sent: it was passed as bytes, which the journal does not keep"
            error = refusal("init_image", b"", requirement, "submit the request again, with its picture")
            return self.refused(request, record.ref, error)
        try:
            return self.submit(request)
        except InvalidRequestError as error:
            return self.refused(request, record.ref, error)

    async def resolve(self, ref: str, *, job_id: str | None, lost: bool) -> JobRun | None:
        """Resolve an uncertain job by hand."""
        self.require_usable()
        self.key.require_absent(ref=ref, id=job_id)
        if bool(job_id) == lost:
            raise refusal(
                "id", job_id, "cannot decide: exactly one of id and lost is needed", "pass id=... or lost=True"
            )
        if job_id and isinstance(await self.api.fetch(job_id, self.api.timeouts.fetch), wire.UnknownId):
            raise refusal("id", job_id, "is unknown to the service", SEE_CANDIDATES)
        return await self.recoverer.resolve(ref, job_id=job_id)

    async def upload(self, image: ImageInput) -> str:
        """Upload a picture. Return the URL that the service gives it."""
        self.require_usable(while_closing=True)
        body = await asyncio.get_running_loop().run_in_executor(None, self._encode_upload, image)
        return await self.call(wire.UPLOAD_PATH, body, wire.upload)

    def _encode_upload(self, image: ImageInput) -> bytes:
        picture = images.examine(ImageToVideoUltra(prompt="upload", init_image=image), Deployment.V6)
        data = images.load(picture)
        if isinstance(data, str):
            raise refusal("image", image, "cannot be uploaded: it is a URL already", "pass the URL as init_image")
        return wire.encode_upload(data, images.sniff(data) or "", self.key)
