"""Run the jobs of one account: lifetime, submits, and calls that cost nothing."""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from typing import TypeVar

import attrs

from modelslab_async.aio import uninterrupted
from modelslab_async.engine import durations
from modelslab_async.engine.config import SharedResources, check_key
from modelslab_async.engine.deliveries import DeliveryHandler
from modelslab_async.engine.dispatcher import Dispatcher
from modelslab_async.engine.follower import Follower
from modelslab_async.engine.orphans import Orphans
from modelslab_async.engine.pictures import PictureKeeper
from modelslab_async.engine.poller import Poller
from modelslab_async.engine.recorder import Recorder, account_fingerprint, request_from_record
from modelslab_async.engine.recovery import SEE_CANDIDATES, Recoverer, Recovery, new_ref
from modelslab_async.engine.requests import differences
from modelslab_async.engine.saver import Saver
from modelslab_async.engine.submitter import Submitter
from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.errors import (
    BudgetExceededError,
    ClientStateError,
    InvalidRequestError,
    NotFoundError,
    Problem,
    RefInUseError,
)
from modelslab_async.job.future import Job
from modelslab_async.job.run import JobRun
from modelslab_async.journal.base import Row
from modelslab_async.media import inputs
from modelslab_async.polling.estimator import PollValue
from modelslab_async.polling.schedule import urgency
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.claims import Follow
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.operations import DEFAULT_OPERATION, endpoint_of, operation_named, operation_of
from modelslab_async.protocol.pricing import Budget
from modelslab_async.protocol.problems import refusal, wrong
from modelslab_async.protocol.record import UNSENT, JobRecord
from modelslab_async.protocol.reply import Body
from modelslab_async.protocol.request import ImageInput, Request, evolved, is_http_url
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.slots import Slots
from modelslab_async.telemetry import Notifier, Telemetry
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
            key,
            shared.base_url,
            shared.journal,
            budget,
            shared.prices,
            deployment=shared.deployment,
            shares_journal=parent is not None,
        )
        if parent:
            self.recorder.changes = parent.recorder.changes
        slots = Slots[JobRun](max_in_flight)
        notifier = Notifier(shared.telemetry)
        webhook_health = WebhookHealth(PollValue(lambda: urgency(slots.waiting, slots.cap)))
        poller = Poller(self.api, notifier, shared.wait, shared.estimator, shared.rate_limiter, webhook_health)
        self.saver = Saver(self.api, notifier, self.recorder, shared.downloads)
        submitter = Submitter(self.api, notifier, self.recorder, slots)
        self.dispatcher = Dispatcher(submitter, poller, self.saver, notifier, slots, on_taken=self._take)
        self.recoverer = Recoverer(self.recorder, self.dispatcher, self._follow, self._on_taken_over)
        self.orphans = Orphans(self.recoverer, lambda ref: self._open_run(ref) is not None, self._send_orphan)
        self._notifier = notifier
        patience = shared.timeouts.whole_job
        self.follower = Follower(self.recorder, self.dispatcher, self.recoverer, patience, self._send_followed)
        self.pictures = PictureKeeper(self.recorder)
        self.deliveries = DeliveryHandler(self.dispatcher, self.recorder, self.recoverer, webhook_health)
        self._sending = set[str]()
        """The refs of jobs from other clients that are about to be queued."""
        self.children: dict[str, Engine] = {}
        """The engines of other accounts on these resources, by account."""
        self.is_closing = self.is_closed = False
        self._opening_child = asyncio.Lock()
        self._ending: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def _follow(self, row: Row) -> Job:
        return self.follower.follow(row)

    def _on_taken_over(self, run: JobRun) -> None:
        run.log(logging.INFO, "taken over from a client that is gone")
        self._notifier.notify(Telemetry.recovered, run.job)
        self.orphans.add(run.job)

    def _take(self, run: JobRun, follow: Follow) -> None:
        self.follower.take(run, follow)

    @property
    def account(self) -> str:
        """The account's fingerprint, as the journal's rows have it."""
        return self.recorder.account

    async def open(self) -> None:
        """Open the journal and check the wallet. Raises JournalError, BudgetExceededError, APIError, TransportError."""
        self.require_usable(opening=True)
        try:
            await self.recorder.open()
            if self.recorder.journal and self.parent is None:
                service = f"{self.shared.base_url} {self.shared.deployment.name}"
                await durations.remember(self.shared.estimator, self.recorder.journal, service, self.key)
            await self.recorder.check_balance(self.balance)
        except BaseException:
            await self.close(drain=False)
            raise
        if self.shared.webhook and self.recorder.journal:
            self.deliveries.start_reading()

    async def child(self, key: ApiKey, *, budget: Budget | None, max_in_flight: int) -> Engine:
        """Return the open engine of another account on the same resources. The same key gives the same engine."""
        account = account_fingerprint(key, self.shared.base_url, self.shared.deployment)
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
        for each in (self, *self.children.values()):
            each.orphans.close()
        try:
            if drain and self._ending is None:
                await self._drain(timeout)
        finally:
            if self._ending is None:
                self._ending = asyncio.create_task(self._end(), name="modelslab_async close")
            await uninterrupted(self._ending)

    async def _drain(self, timeout: float | None) -> None:
        engines = [self, *self.children.values()]
        if timeout is not None:
            for each in engines:
                each.dispatcher.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await asyncio.gather(*(each.dispatcher.drain() for each in engines))
                if timeout is None:
                    await asyncio.gather(*(each.follower.drain() for each in engines))
                    await asyncio.gather(*(each.dispatcher.drain() for each in engines))

    async def _end(self) -> None:
        async with AsyncExitStack() as stack:  # the last one that is pushed runs first
            if self.shared.webhook:
                stack.callback(self.shared.webhook.unregister, self.deliveries)
            if self.parent is None:
                stack.push_async_callback(self.shared.transport.aclose)
            for part in (self.recorder, self.pictures, self.dispatcher, self.follower, self.deliveries):
                stack.push_async_callback(part.close)
            stack.callback(setattr, self, "is_closed", True)
            for child in self.children.values():
                stack.push_async_callback(child.close, drain=False)

    def submit(self, request: Request, problems: Sequence[Problem] = ()) -> JobRun:
        """Check a request, reserve its price, and queue its job. *problems* are known already.

        A job that the budget does not allow is REFUSED at once.
        """
        self.require_usable()
        media = self.check(request, problems, stacklevel=5)
        run = JobRun(self.dispatcher, request, request.track_id or new_ref(), media=media)
        self._enqueue(run)
        return run

    def _enqueue(self, run: JobRun) -> None:
        """Reserve the job's price, and queue the job."""
        assert run.request  # noqa: S101 - it was checked
        own_webhook = self.shared.webhook.url(run.ref, self.account) if self.shared.webhook else None
        run.has_webhook = own_webhook is not None and run.request.webhook in (None, own_webhook)
        if run.has_webhook:
            run.request = attrs.evolve(run.request, webhook=own_webhook)
        try:
            self.recorder.begin(run)
        except BudgetExceededError as error:
            run.advance(lifecycle.Rejected(error))
        else:
            self.dispatcher.enqueue(run)
            self.pictures.keep(run)

    async def _send_followed(self, run: JobRun, record: JobRecord) -> bool:
        """Queue a job that another client never sent.

        Return False if another run of this client does that, or if the client closes: a later one finds the job.
        Raises InvalidRequestError if its files cannot be had here, JournalError.
        """
        if record.ref in self._sending:
            return False
        self._sending.add(record.ref)
        try:
            await self._examine_files(run, record)
        finally:
            self._sending.discard(record.ref)
        if record.ref in self.dispatcher.jobs or self.api.closing.is_set():  # it may have been submitted meanwhile
            return False
        run.runtime, run.record = self.dispatcher, record
        self._enqueue(run)
        self._on_taken_over(run)
        return True

    async def _examine_files(self, run: JobRun, record: JobRecord) -> None:
        """Give a job from another client its request with its files."""
        if run.request is None:  # each row of a job that was not sent has its request
            operation_named(record.operation)  # raises: this process does not know the operation
            raise refusal("ref", record.ref, "has a row without a request", "submit the request again")
        if run.media is None:
            run.request = await self._with_picture(record, run.request)
            run.media = inputs.examine(run.request, self.api.deployment)
        run.request = attrs.evolve(run.request, track_id=run.ref)

    async def _send_orphan(self, record: JobRecord) -> None:
        """Queue a job that its client never sent, or refuse it if its files cannot be had here. Raises JournalError."""
        run = JobRun(self.dispatcher, request_from_record(record), record.ref)
        run.record = record
        try:
            await self._send_followed(run, record)
        except InvalidRequestError as error:
            run.advance(lifecycle.Rejected(error))
            self._on_taken_over(run)

    async def _with_picture(self, record: JobRecord, request: Request) -> Request:
        """Return a row's request with the picture that travels inside it, if there is one.

        The picture comes from the journal, or else from its place. Raises InvalidRequestError if it is in neither.
        """
        where = (record.picture or {}).get("where")
        if operation_of(request).inline_input is None or (isinstance(where, str) and is_http_url(where)):
            return request
        kept = await self.recoverer.journal.picture(record)
        if kept is not None:  # the file may be another one by now, or on this host
            return evolved(request, init_image=kept)
        if isinstance(where, str) and inputs.is_file(where):
            return request
        requirement = "cannot be sent: it was passed as bytes, which the journal does not keep"
        if where:
            requirement = "cannot be sent: the file is not there, and the journal has no copy"
        raise refusal("init_image", where or b"", requirement, "submit the request again, with its picture")

    async def ensure(self, request: Request, ref: str, problems: Sequence[Problem] = ()) -> Job:
        """Return the job with this ref, which is submitted if it never was, see `Client.ensure`."""
        self.require_usable()
        self.key.require_absent(ref=ref)
        operation_of(request)
        request = attrs.evolve(request, track_id=ref)
        run = self._open_run(ref)
        row = None if run else await self.recoverer.journal.find(self.account, ref=ref)
        run = run or self._open_run(ref)  # another task may have submitted it meanwhile
        if run is None and (row is None or row.record.state in UNSENT):
            job = self.submit(request, problems).job
            await self.recoverer.find(ref)  # a read sees each row that was noted before: the job is on disk
            return job
        if record := run.record if run else row and row.record:
            media = None
            with suppress(InvalidRequestError):  # a file may be gone, and is not needed any more
                media = inputs.examine(request, self.api.deployment)
            if problems:
                raise InvalidRequestError(problems)
            if found := await differences(request, media, record, self.key):
                raise RefInUseError(found)
        if run:
            return run.job
        assert row  # noqa: S101 - without a row the job was submitted
        if row.record.state is JobState.WAITING:
            return self.follower.follow(row, request)
        job = await self.recoverer.attach_row(row)
        if job.error and job.state in (JobState.UNCERTAIN, JobState.FAILED):
            raise job.error
        return job

    def _open_run(self, ref: str) -> JobRun | None:
        return self.dispatcher.jobs.get(ref) or self.follower.runs.get(ref)

    async def follow(self, ref: str) -> Job:
        """Return the job with this ref, whichever client runs it, see `Client.follow`."""
        self.require_usable()
        self.key.require_absent(ref=ref)
        row = await self.recoverer.journal.find(self.account, ref=ref)
        if run := self._open_run(ref):
            return run.job
        if row is None:
            raise NotFoundError(f"the journal has no job {ref} of this account")
        if row.record.state is JobState.WAITING:
            return self.follower.follow(row)
        return await self.recoverer.attach_row(row)

    def refused(self, request: Request | None, ref: str, error: InvalidRequestError) -> JobRun:
        """Return a job that ended before it was sent."""
        run = JobRun(self.dispatcher, request, ref)
        run.advance(lifecycle.Rejected(error))
        return run

    def check(self, request: Request, known_problems: Sequence[Problem] = (), *, stacklevel: int) -> inputs.Media:
        """Return the files of a request.

        Raises InvalidRequestError with every problem, or warns of those beyond the documentation, as `limits` says. A
        warning shows the line of the caller that is *stacklevel* calls away.
        """
        operation_of(request)
        problems = self.key.problems_in(track_id=request.track_id) + check(request, self.api.deployment)
        media = None
        try:
            if self.recorder.budget:
                self.recorder.budget.require_prices(self.recorder.price_of(request))
        except InvalidRequestError as error:
            problems += error.problems
        try:
            media = inputs.examine(request, self.api.deployment)
        except InvalidRequestError as error:
            problems += error.problems
        if isinstance(request.track_id, str) and self._open_run(request.track_id):
            requirement = "cannot be used twice at the same time: a job with this track_id is open"
            problems.append(wrong("track_id", request.track_id, requirement, "choose another, or omit it"))
        known = {problem.field for problem in known_problems}
        problems = [*known_problems, *(problem for problem in problems if problem.field not in known)]
        limits = self.shared.limits
        if problems and (limits == "refuse" or not all(problem.overridable for problem in problems)):
            raise InvalidRequestError(problems)
        for problem in map(self.key.redact_problem, problems if limits == "warn" else ()):
            what = f"{problem.field}={problem.value}: {problem.requirement}"
            warnings.warn(what, BeyondDocumentationWarning, stacklevel=stacklevel)
        assert media is not None  # noqa: S101 - without them there was a problem
        return media

    async def balance(self) -> wire.Balance:
        """Return what the account's wallet holds."""
        return await self.call(wire.BALANCE_PATH, self.api.bare_body, wire.balance)

    async def call(self, path: str, body: bytes, pick: Callable[[Body], _T]) -> _T:
        """Make a call that costs nothing, and return what *pick* takes from the reply."""
        self.require_usable(while_closing=True)
        return await self.api.call(path, body, pick)

    async def attach(self, ref_or_id: str, operation: str) -> Job:
        """Return the job with this ref or id. *operation* is that of a job that only the service knows."""
        self.key.require_absent(operation=operation)
        endpoint_of(operation, self.shared.deployment)
        self.require_usable()
        self.key.require_absent(ref_or_id=ref_or_id)
        if not ref_or_id:
            raise refusal("ref_or_id", ref_or_id, "must not be empty", "pass the id that the service gave, or a ref")
        return await self.recoverer.attach(ref_or_id, operation)

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

    async def recovered(self, *, resubmit: bool) -> AsyncGenerator[Job]:
        """Yield each job that this client takes over from a client that is gone, until this client closes."""
        self.require_usable()
        assert self.recoverer.journal  # noqa: S101 - raises ClientStateError without a journal
        async with aclosing(self.orphans.jobs(resubmit=resubmit)) as jobs:
            async for job in jobs:
                yield job

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over the job of a journal row and resume it."""
        self.require_usable()
        return await self.recoverer.resume(record)

    async def resubmit(self, records: Iterable[JobRecord]) -> list[JobRun]:
        """Submit jobs that an earlier client never sent."""
        self.require_usable()
        unsent = [await self.recoverer.unsent(record) for record in records]
        return [await self._resubmit(record) for record in unsent]

    async def _resubmit(self, record: JobRecord) -> JobRun:
        request = request_from_record(record)
        try:
            if request is None:
                operation_named(record.operation)  # raises: this process does not know the operation
                raise refusal("ref", record.ref, "has a row without a request", "submit the request again")
            return self.submit(await self._with_picture(record, request))
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
        if job_id:
            row = await self.recoverer.find(ref)
            operation = row.record.operation if row else DEFAULT_OPERATION
            if isinstance(await self.api.fetch(operation, job_id, self.api.timeouts.fetch), wire.UnknownId):
                raise refusal("id", job_id, "is unknown to the service", SEE_CANDIDATES)
        return await self.recoverer.resolve(ref, job_id=job_id)

    async def upload(self, file: ImageInput) -> str:
        """Upload a picture or an mp4. Return the URL that the service gives it."""
        self.require_usable(while_closing=True)
        data, mime_type = await asyncio.get_running_loop().run_in_executor(None, inputs.load_upload, file)
        return await self.api.upload(data, mime_type)
