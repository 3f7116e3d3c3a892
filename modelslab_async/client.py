"""The client: one account, its jobs, and calls that cost nothing."""

from __future__ import annotations

import asyncio
import os
import random
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, Unpack, overload

import aiohttp

from modelslab_async.engine.config import (
    AnyRequest,
    InsecureTransportWarning,
    SharedResources,
    call_of,
    check_arguments,
    check_key,
    parse_request,
    proxies_of,
    require_key,
    wrapped_key,
)
from modelslab_async.engine.dedicated import DedicatedServer
from modelslab_async.engine.engine import Engine
from modelslab_async.engine.recorder import account_fingerprint
from modelslab_async.engine.recovery import Recovery, new_ref
from modelslab_async.engine.saver import MAX_SAVES
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem
from modelslab_async.job import streams
from modelslab_async.job.future import Job
from modelslab_async.journal.base import Journal
from modelslab_async.journal.choose import journal_of
from modelslab_async.media.saved import DEFAULT_MAX_BYTES, Progress, SavedVideo
from modelslab_async.polling.estimator import DurationEstimator
from modelslab_async.polling.flow import WaitStrategy
from modelslab_async.polling.schedule import DEFAULT_POLL_COST, RateLimiter, gaps_at
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.operations import DEFAULT_OPERATION
from modelslab_async.protocol.pricing import Budget, Estimate, PriceList
from modelslab_async.protocol.problems import refusal, wrong
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import (
    Deployment,
    ImageInput,
    LimitsMode,
    NewRequestParams,
    Request,
    RequestParams,
)
from modelslab_async.protocol.secret import ApiKey, hides_key
from modelslab_async.protocol.statistics import Statistics
from modelslab_async.protocol.timeouts import Timeouts
from modelslab_async.telemetry import Telemetry
from modelslab_async.transport.aiohttp import AiohttpTransport
from modelslab_async.transport.base import Transport

if TYPE_CHECKING:
    from modelslab_async.webhook import Webhook

DEFAULT_MAX_IN_FLIGHT = 5
"""What a pay-as-you-go account may have queued or processing; Standard has 10, Premium 15."""
DEFAULT_MAX_POLLS_PER_SECOND = 20.0
"""More than any account's jobs need: five jobs are polled about once a second, all together."""


@hides_key
class Client:
    """Submit requests, wait for the jobs, and keep within the account's limits.

    Use it as `async with Client() as client:`. Leaving the block normally waits for all jobs. If an exception leaves
    the block, the client submits no more jobs and detaches from the running jobs. `attach` resumes them, here or in
    another process.

    api_key: None takes it from the environment's MODELSLAB_API_KEY.
    base_url: https, or http on loopback, where an emulator listens.
    allow_http: True allows a `base_url` with plain http on any host, for an emulator on another host. The key then
        travels in clear text, and the client warns once, with InsecureTransportWarning.
    enterprise: True uses the paths and limits of a dedicated server.
    max_in_flight: the most jobs at the service at a time. If the service allows fewer, the client finds and keeps that
        limit.
    limits: "refuse" raises for a request beyond the documented limits, "warn" warns and sends it, None just sends it.
    wait: "auto" polls the service until it reports success, then probes the links until the file can be read; "poll"
        trusts the report of success; "links" probes the announced links, and polls now and then to detect a failure.
    poll_cost: the cost of a poll, in seconds of waiting. A smaller value polls more often.
    max_polls_per_second: a bound for the polls of all running jobs together; None for no bound. Probes after the
        service reported success are not counted.
    journal: a path such as "jobs.db" keeps every job on disk, so that `recover` can collect what a dead process has
        paid for. The clients of several processes share a file, and those of several hosts share a PostgreSQL
        database, "postgresql://..." (extra `postgres`). All clients of an account together keep to its slots. Any
        `Journal` will do. A client with a journal must be used as `async with`. None keeps nothing.
    budget: what may be spent, see `Budget`; several clients may share one. None for no bound.
    prices: what calls cost, for budget and estimates; None for the documented prices.
    timeouts: see `Timeouts`.
    webhook: where the service reports ends, see `modelslab_async.webhook.Webhook`. A request that names another webhook
        keeps it. None only polls.
    telemetry: is notified of what happens, see `modelslab_async.telemetry.Telemetry`.
    session: an aiohttp session to use; the client does not close it. None opens two at the first request: one for
        submits, each on a new connection, and one for the rest. A session that is passed in cannot guarantee new
        connections: a reply left in one of its pooled connections may answer a submit. With such a session, a refusal
        that is not the service's own JSON is therefore UNCERTAIN.
    proxy: the URL of an http(s) proxy for all requests except to loopback. None uses HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
        and NO_PROXY of the environment, as curl does. With `session`, that session's own settings apply.
    rng: the random generator for jitter; None makes one that the system seeds.
    transport: carries requests instead of aiohttp, such as an emulator in this process.

    Raises InvalidRequestError for invalid arguments, AuthenticationError without a key.
    """

    _api_key = ApiKey("")
    """Empty until a key is passed."""

    def __init__(
        self,
        api_key: str | ApiKey | None = None,
        *,
        base_url: str = wire.DEFAULT_BASE_URL,
        allow_http: bool = False,
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
        if wire.is_clear_text(base_url):
            text = f"base_url={base_url!r}: requests carry the API key in clear text, and the network can read it"
            hint = "use it only for an emulator, with a made-up key"
            warnings.warn(f"{text} (hint: {hint})", InsecureTransportWarning, stacklevel=3)  # 2 is in `hides_key`
        proxies = proxies_of(proxy, base_url, is_session_passed_in=session is not None)
        timeouts = timeouts or Timeouts()
        shared = SharedResources(
            base_url=base_url.rstrip("/"),
            deployment=Deployment.ENTERPRISE if enterprise else Deployment.V6,
            limits=limits,
            wait=wait,
            estimator=DurationEstimator(gaps_at(poll_cost)),
            rate_limiter=RateLimiter(max_polls_per_second),
            journal=journal_of(journal) if isinstance(journal, str | os.PathLike) else journal,
            prices=prices or PriceList(),
            timeouts=timeouts,
            webhook=webhook,
            telemetry=telemetry,
            rng=rng or random.Random(),
            transport=transport or AiohttpTransport(timeouts, session=session, proxies=proxies),
            max_in_flight=max_in_flight,
            downloads=asyncio.Semaphore(MAX_SAVES),
        )
        self._engine = Engine(shared, key, budget=budget, max_in_flight=max_in_flight)
        self._accounts: dict[Engine, Client] = {self._engine: self}
        """The clients of all accounts on these resources, by engine."""

    def __repr__(self) -> str:
        dispatcher = self._engine.dispatcher
        slots = dispatcher.slots
        return f"<Client {self.base_url} jobs={len(dispatcher.jobs)} in_flight={slots.taken}/{slots.cap}>"

    async def __aenter__(self) -> Self:
        """Open the journal and check the wallet.

        Raises JournalError for a journal that cannot be used, BudgetExceededError if the wallet is too small, APIError
        or TransportError if the wallet cannot be read, and ClientStateError for a closed client. Only
        `Budget(check_balance=True)` reads the wallet.
        """
        await self._engine.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.aclose(drain=kind is None)

    async def aclose(self, *, drain: bool = True, timeout: float | None = None) -> None:
        """Close the client, in one of three ways.

        - By default, wait for all jobs first, including those that still wait for their turn.
        - With *timeout*, in seconds, submit no more jobs, and wait at most that long for the running jobs.
        - Without *drain*, submit no more jobs, and wait for none.

        The client always waits for the replies to submits under way, within `Timeouts.submit`, however often the caller
        is cancelled. These replies decide whether a job is paid for. Then the client detaches from the running jobs.
        With a journal, a job that was not sent stays WAITING there: the next client finds it in `recover().unsent` and
        sends it by `resubmit`. Without a journal, the job is cancelled.
        """
        await self._engine.close(drain=drain, timeout=timeout)

    @property
    def base_url(self) -> str:
        """The URL of the server to which requests go."""
        return self._engine.shared.base_url

    @property
    def deployment(self) -> Deployment:
        """The deployment in use: the shared service, or a dedicated server."""
        return self._engine.shared.deployment

    @property
    def account_id(self) -> str:
        """A fingerprint of the account, as the journal's rows have it in `JobRecord.account`. It hides the key."""
        return self._engine.account

    @property
    def journal(self) -> Journal | None:
        """The journal; None if the client has none."""
        return self._engine.recorder.journal

    @property
    def prices(self) -> PriceList:
        """The prices of calls."""
        return self._engine.recorder.prices

    @property
    def budget(self) -> Budget | None:
        """The budget; None for no bound."""
        return self._engine.recorder.budget

    @property
    def dedicated_server(self) -> DedicatedServer:
        """Commands to the dedicated server. Raises ClientStateError unless the client has `enterprise=True`."""
        return DedicatedServer(self._engine)

    @property
    def api_key(self) -> ApiKey:
        """The account's key, wrapped: it removes the key from values and errors, and shows it nowhere."""
        return self._api_key

    async def account(
        self, api_key: str | ApiKey, *, budget: Budget | None = None, max_in_flight: int | None = None
    ) -> Client:
        """Return the client of another account, for an application with many users.

        The returned client has separate slots and a separate budget. It shares this client's session, journal, limit of
        polls and duration estimates, and closes with this client. A second call with the same key returns the same
        client.

        Raises AuthenticationError for a missing or unusable key, InvalidRequestError, JournalError, ClientStateError.
        If the budget checks the wallet, raises BudgetExceededError, APIError or TransportError too.
        """
        key = wrapped_key(api_key)
        del api_key  # a traceback from here on may be shown with local variables
        try:
            return await self._account(key, budget=budget, max_in_flight=max_in_flight)
        except ModelsLabError as error:
            key.hide_in(error)
            raise

    async def _account(self, key: ApiKey, *, budget: Budget | None, max_in_flight: int | None) -> Client:
        self._engine.require_usable()
        root = self._engine.parent or self._engine
        slots = root.shared.max_in_flight if max_in_flight is None else max_in_flight
        check_arguments({"max_in_flight": slots, "budget": budget}, key)
        require_key(key)
        check_key(key, self.base_url)
        if account_fingerprint(key, self.base_url, self.deployment) == root.account:
            if budget or max_in_flight:
                requirement = "cannot be the first client's own key, which has its budget and slots already"
                raise refusal("api_key", "hidden", requirement, "pass only the key")
            return self._accounts[root]
        engine = await root.child(key, budget=budget, max_in_flight=slots)
        if engine not in self._accounts:
            self._accounts[engine] = _AccountClient(engine, self._accounts)
        return self._accounts[engine]

    @overload
    def submit(self, request: AnyRequest, /, **params: Unpack[RequestParams]) -> Job: ...

    @overload
    def submit(self, /, **params: Unpack[NewRequestParams]) -> Job: ...

    def submit(self, request: AnyRequest | None = None, /, **params: Any) -> Job:
        """Submit a request. Return its job future at once; the request is sent when a slot is free.

        The request is an `ImageToVideoUltra` or the request of another operation, a mapping with the names of the
        documentation page, or keywords. Keywords override fields of the request or the mapping. A mapping may name its
        `operation`; without it, mappings and keywords make an `ImageToVideoUltra`.

        If the journal has a job with the same `track_id`, which was or may have been sent, nothing is sent: the new job
        becomes that job. If that job has a different request, the new job ends as REFUSED.

        Raises InvalidRequestError with all problems, ClientStateError for a closed client or a foreign event loop.
        Awaiting the job raises all other errors, such as BudgetExceededError if the budget does not allow it.
        """
        return self._engine.submit(*parse_request(request, params)).job

    @overload
    def check(self, request: AnyRequest, /, **params: Unpack[RequestParams]) -> None: ...

    @overload
    def check(self, /, **params: Unpack[NewRequestParams]) -> None: ...

    def check(self, request: AnyRequest | None = None, /, **params: Any) -> None:
        """Check a request as `submit` does, without sending or reserving anything.

        Raises InvalidRequestError with all problems.
        """
        self._engine.require_usable()
        self._engine.check(*parse_request(request, params), stacklevel=4)

    @overload
    async def generate(self, request: AnyRequest, /, **params: Unpack[RequestParams]) -> Video: ...

    @overload
    async def generate(self, /, **params: Unpack[NewRequestParams]) -> Video: ...

    async def generate(self, request: AnyRequest | None = None, /, **params: Any) -> Video:
        """Submit a request, and wait for its video. Raises as `submit` does, or the job's error."""
        return await self._engine.submit(*parse_request(request, params)).job

    @overload
    async def ensure(self, request: AnyRequest, /, *, ref: str, **params: Unpack[RequestParams]) -> Job: ...

    @overload
    async def ensure(self, /, *, ref: str, **params: Unpack[NewRequestParams]) -> Job: ...

    async def ensure(self, request: AnyRequest | None = None, /, *, ref: str, **params: Any) -> Job:
        """Return the job with this ref. It is submitted once, however many clients, processes and hosts ask for it.

        Call it in the body of a task of a task queue: a task that runs twice pays once.

        - A job that is unknown to the journal, was refused, or was cancelled is submitted.
        - A job of another client is followed, see `follow`. A job that a client left behind is taken over, and a job
          that timed out is polled again.
        - A job that is READY is returned as done.

        Raises the error of a job that failed or is uncertain: it is not submitted again. Raises InvalidRequestError for
        an invalid request, and if the job with this ref has other parameters or another picture; ClientStateError
        without a journal; JournalError.
        """
        return await self._engine.ensure(*_with_ref(parse_request(request, params), ref))

    async def follow(self, ref: str) -> Job:
        """Return the job with this ref, whichever client runs it, in whichever process or host.

        While its client lives, the job's events, its estimate and its end come from the journal. If that client dies,
        this one takes the job over, and sends it if it was not sent. A job that ended is returned as done.

        Raises NotFoundError if the journal has no such job, ClientStateError without a journal, JournalError.
        """
        return await self._engine.follow(ref)

    async def attach(self, ref_or_id: str | int, *, operation: str = DEFAULT_OPERATION) -> Job:
        """Return the job with this ref, or with this id of the service. This costs nothing.

        operation: the operation of a job that was submitted elsewhere: the service answers polls only at the path of
            that operation. It is ignored for a job that is known here.

        - A job that is open here is returned as it is.
        - A job that ended here recently (one of the last 100) is returned as it is, unless a new poll may change its
          end. That is so if the job timed out, was detached, is uncertain or has no readable video. It is polled again
          if its id is known.
        - A job of the journal is followed if another live client owns it, and is resumed otherwise. If it ended, the
          returned job is done.
        - Any other name is taken for an id that the same key submitted elsewhere, and is polled at once. If the service
          does not know it, the job ends with NotFoundError, not charged.

        Raises InvalidRequestError for an empty name, for a name that holds the key, for an operation that is unknown or
        that a dedicated server does not have, and for a job that cannot be attached to now; JournalError;
        ClientStateError.
        """
        return await self._engine.attach(str(ref_or_id).strip(), operation)

    async def find(self, ref_or_id: str) -> JobRecord | None:
        """Return the journal's row of the job with this ref, or id of the service; None if there is none.

        Raises ClientStateError without a journal, JournalError, InvalidRequestError for a name that holds the key.
        """
        self._engine.require_usable()
        self._api_key.require_absent(ref=ref_or_id)
        row = await self._engine.recoverer.find(ref_or_id)
        return row and row.record

    async def history(self, limit: int = 100) -> tuple[JobRecord, ...]:
        """Return the journal's latest jobs of this account, the newest first. Raises as `find` does."""
        self._engine.require_usable()
        return tuple(await self._engine.recoverer.journal.recent(self.account_id, limit))

    async def recover(self, refs: Collection[str] | None = None, *, search: bool = False) -> Recovery:
        """Take over the jobs that earlier clients left in the journal, see `Recovery`. Nothing is submitted again.

        refs: only these jobs, by ref or id, including READY ones whose video was saved before. None for all.
        search: list the account's recent videos that are in no row, as candidates. The client does not match them to
            jobs.

        Raises ClientStateError without a journal, JournalError, InvalidRequestError for a ref that holds the key. With
        `search`, APIError or TransportError too.
        """
        return await self._engine.recover([refs] if isinstance(refs, str) else refs, search=search)

    async def recovered(self, *, resubmit: bool = True) -> AsyncGenerator[Job]:
        """Yield each job that this client takes over from a client that is gone, until this client closes.

        The journal is searched now, and again every two seconds. So a job of a process that dies is taken over within
        seconds, or within a lease if the process ran on another host. Each job goes to one of the clients that search.

        - A running job continues here. A READY job was neither saved nor acknowledged, see `Job.delivered`.
        - A job that was never sent is queued. Without *resubmit*, it stays in the journal for `recover`.
        - A job whose reply was lost is yielded as ended with SubmitUncertainError. `resolve` takes the user's decision.

        A job that `ensure`, `follow` or a webhook made this client take over is yielded too. While the journal cannot
        be reached, the client keeps trying. Raises ClientStateError without a journal.
        """
        async with aclosing(self._engine.recovered(resubmit=resubmit)) as jobs:
            async for job in jobs:
                yield job

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over the job of a journal row and resume it, or return the job if it is open here.

        Return None if another client that is alive owns the row, if another client took it over first, or if a new job
        uses its ref. Raises ClientStateError without a journal, JournalError.
        """
        return await self._engine.resume(record)

    async def resubmit(self, records: Iterable[JobRecord]) -> tuple[Job, ...]:
        """Submit jobs that an earlier client never sent, as `recover().unsent` lists them, under their refs.

        A job whose picture is gone, or was passed as bytes, is returned as REFUSED. Nothing is charged for it.

        Raises InvalidRequestError, before any job is sent, for a record that is not WAITING any more or that belongs to
        another client that is alive; ClientStateError without a journal; JournalError.
        """
        return tuple([run.job for run in await self._engine.resubmit(records)])

    async def resolve(self, ref: str, *, id: str | int | None = None, lost: bool = False) -> Job | None:  # noqa: A002
        """Resolve an uncertain job by hand: either the service accepted it as *id*, or it was lost and not charged.

        Return the resumed job, or None if it was lost. The ref of a lost job may be submitted again.

        Raises InvalidRequestError if no uncertain job has this ref, if the service knows no such id, if another job has
        the id, and unless exactly one of *id* and *lost* is passed; ClientStateError without a journal; JournalError.
        """
        job_id = None if id is None else str(id).strip()
        run = await self._engine.resolve(ref, job_id=job_id, lost=lost)
        return run.job if run else None

    def estimate(self, requests: Iterable[AnyRequest]) -> Estimate:
        """Return what these requests cost. They are counted, not checked, and nothing is sent or reserved.

        A request whose price is unknown counts in `Estimate.unpriced`.
        """
        return self.prices.estimate_calls(map(call_of, requests))

    async def as_completed(self, jobs: Iterable[Job]) -> AsyncGenerator[Job]:
        """Yield each job when it ends, however it ends. `job.result()` then gives the video or raises."""
        async for job in streams.as_completed(jobs):
            yield job

    async def map(
        self, requests: Iterable[AnyRequest] | AsyncIterable[AnyRequest], *, lookahead: int = 20
    ) -> AsyncGenerator[Job]:
        """Submit requests while there is room, and yield each job when it ends. The requests may be endless.

        lookahead: at most this many jobs are submitted and not yet yielded.

        A request that is invalid, or that the budget does not allow, is yielded as a REFUSED job. An error that the
        iterable raises is raised here, after the jobs before it were yielded. Raises InvalidRequestError for a
        *lookahead* below 1.
        """
        if lookahead < 1:
            raise refusal("lookahead", lookahead, "must be at least 1", "omit it for 20")
        async with aclosing(streams.BoundedMap(requests, self._submit_or_refuse, lookahead).jobs()) as jobs:
            async for job in jobs:
                yield job

    def _submit_or_refuse(self, request: AnyRequest) -> Job:
        try:
            return self.submit(request)
        except InvalidRequestError as error:
            known = request if isinstance(request, Request) else None
            ref = known.track_id if known and isinstance(known.track_id, str) else None
            return self._engine.refused(known, ref or new_ref(), error).job

    async def download(
        self,
        video: Video | str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> SavedVideo:
        """Save a video, or the file behind a URL, at *path*: streamed, resumed after a break, verified to be whole.

        A video is an mp4, or a gif if its operation gives one, see `Video.container`. Missing folders are made. An
        existing file is replaced once the new one is whole and on disk.

        progress: called with the bytes received and the total, or None if the server does not say.
        overwrite: False never replaces an existing file.
        max_bytes: a longer file is not saved; 2 GiB by default.

        At most 50 downloads run at once; further calls wait.

        Raises InvalidVideoError if no link gives a whole video, InvalidRequestError for a path that cannot be a file,
        FileExistsError without `overwrite`, OSError if the disk fails.
        """
        self._engine.require_usable(while_closing=True)
        return await self._engine.saver.save(video, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    def statistics(self) -> Statistics:
        """Return a snapshot of what the client did so far and what it does now."""
        self._engine.require_usable(while_closing=True)
        return self._engine.dispatcher.statistics()

    async def balance(self) -> wire.Balance:
        """Return what the account's wallet holds. Raises APIError or TransportError."""
        return await self._engine.balance()

    async def queue_depth(self) -> int:
        """Return how many jobs the account has queued or processing, from all endpoints and processes.

        The service takes at most 30 such calls a minute. Raises APIError or TransportError.
        """
        return await self._engine.call(wire.QUEUE_DEPTH_PATH, self._engine.api.bare_body, wire.queue_depth)

    async def upload(self, file: ImageInput) -> str:
        """Upload a local picture or mp4 (path, bytes or data URI; 5 MB at most).

        Return a URL that the service keeps for 24 hours. Raises InvalidRequestError if *file* is neither a picture nor
        an mp4, APIError or TransportError.
        """
        return await self._engine.upload(file)


def _with_ref(parsed: tuple[Request, list[Problem]], ref: str) -> tuple[Request, str, list[Problem]]:
    """Return the request, the ref, and what is wrong with the names or with a ref that contradicts the request's."""
    request, problems = parsed
    if request.track_id not in (None, ref):
        requirement = "must be omitted, or the same as ref"
        problems = [*problems, wrong("track_id", request.track_id, requirement, "pass only ref")]
    return request, ref, problems


class _AccountClient(Client):
    """The client of an engine that exists already, see `Client.account`."""

    def __init__(self, engine: Engine, accounts: dict[Engine, Client]) -> None:
        self._api_key, self._engine, self._accounts = engine.key, engine, accounts
