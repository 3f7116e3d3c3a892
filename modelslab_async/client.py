"""Client: one account, one asyncio session, many jobs."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import AsyncGenerator, AsyncIterable, Collection, Iterable
from contextlib import aclosing
from typing import Unpack, cast

import attrs

from modelslab_async.engine.account import make_account
from modelslab_async.engine.config import (
    AnyRequest,
    check_arguments,
    check_key,
    normalize_request,
    require_key,
    wrapped_key,
)
from modelslab_async.engine.engine import Session
from modelslab_async.engine.recorder import account_fingerprint, request_from_record
from modelslab_async.engine.recovery import CANDIDATES, Recovery
from modelslab_async.errors import InvalidRequestError, ModelsLabError
from modelslab_async.job.future import Job
from modelslab_async.job.streams import BoundedMap
from modelslab_async.journal.base import Journal
from modelslab_async.media import images
from modelslab_async.media.saved import DEFAULT_MAX_BYTES, Progress, SavedVideo
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.limits import check
from modelslab_async.protocol.pricing import Budget, Estimate
from modelslab_async.protocol.problems import refusal, wrong
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.request import Deployment, ImageInput, ImageToVideoUltra, RequestParams
from modelslab_async.protocol.secret import ApiKey, hides_key
from modelslab_async.protocol.statistics import Statistics


class BeyondDocumentationWarning(UserWarning):
    """A request is sent although it goes beyond the documented limits: `Client(limits="warn")`."""


@hides_key
class Client(Session):
    """Submits requests, watches the jobs, and keeps the account's limits.

    Use it as `async with Client() as client:`. Leaving the block normally waits for all jobs. Leaving it by an
    exception submits no more and detaches from the jobs that run; `attach` watches them on, here or in another process.

    api_key: None takes it from the environment's MODELSLAB_API_KEY.
    base_url: https, or http on loopback, where an emulator listens.
    enterprise: True uses the paths and limits of a dedicated server.
    max_in_flight: jobs at the service at a time. The service's own limit is found and kept, whatever is said here.
    limits: "refuse" raises for a request beyond the documented limits, "warn" warns and sends, None just sends.
    wait: "auto" asks the service until it says success, then probes the links until the file reads; "poll" takes the
        service's word for it; "links" probes the announced links, and asks now and then so that a failure is seen.
    journal: a path, "jobs.db", keeps every job on disk, so that `recover` can collect what a process that died has paid
        for; or any `Journal`. A client with a journal starts in `async with`. None keeps nothing.
    budget: what may be spent, see `Budget`; one may be shared by several clients. None for no bounds.
    prices: what a call costs, for budget and estimates; None for the documented prices.
    timeouts: see `Timeouts`.
    webhook: where the service tells of ends, see `modelslab_async.webhook.Webhook`; requests that name one of their own
        keep it. None only looks.
    telemetry: is told what happens, see `modelslab_async.telemetry.Telemetry`.
    session: an aiohttp session to use; it is not closed here. None opens two at the first request: one for submits,
        each on a connection of its own, one for the rest. A session that is passed in cannot promise that: a reply left
        in one of its pooled connections may answer a submit, so a refusal that is not the service's own JSON is
        UNCERTAIN then.
    proxy: the URL of an http(s) proxy for all requests except to loopback. None uses HTTPS_PROXY, HTTP_PROXY, ALL_PROXY
        and NO_PROXY of the environment, as curl does. With `session`, that session's own settings hold.
    rng: for jitter; None seeds one from the system.
    transport: what carries requests, instead of aiohttp: an emulator in this process.

    Raises InvalidRequestError for arguments that cannot be right, AuthenticationError without a key.
    """

    async def account(
        self, api_key: str | ApiKey, *, budget: Budget | None = None, max_in_flight: int | None = None
    ) -> Client:
        """The client of another account, for an application with many users: places and budget of its own; session,
        journal, pace and what is learned of waiting are shared. The same key gives the same client, as it was first
        asked for. It is closed with this one.

        Raises AuthenticationError for an empty key, InvalidRequestError, JournalError, ClientStateError.
        """
        key = wrapped_key(api_key)
        del api_key  # a traceback from here on may be shown with local variables
        try:
            return await self._account(key, budget=budget, max_in_flight=max_in_flight)
        except ModelsLabError as error:
            key.hide_in(error)
            raise

    async def _account(self, key: ApiKey, *, budget: Budget | None, max_in_flight: int | None) -> Client:
        self._enter()
        if isinstance(self._parent, Client):
            return await self._parent._account(key, budget=budget, max_in_flight=max_in_flight)
        common = self._common
        places = common.max_in_flight if max_in_flight is None else max_in_flight
        check_arguments({"max_in_flight": places, "budget": budget}, key)
        require_key(key)
        check_key(key, common.base_url)
        name = account_fingerprint(key, common.base_url)
        if name == self._recorder.account:
            if budget or max_in_flight:
                raise refusal("api_key", "hidden", "not this client's own, which has its budget", "pass just the key")
            return self
        async with self._opening:
            child = self._accounts.get(name)
            if child is None or child._closed:
                child = Client.__new__(Client)
                own = make_account(common, key, budget=budget, max_in_flight=places, shares_journal=True)
                child._begin(common, own, parent=self)
                self._accounts[name] = child  # from here on it closes with this one
                await child.__aenter__()
        child._enter()  # may be closing
        return cast("Client", child)

    @property
    def account_id(self) -> str:
        """The account's fingerprint, as journal rows carry it. It does not reveal the key."""
        return self._recorder.account

    @property
    def api_key(self) -> ApiKey:
        """The account's key, wrapped: it finds and removes the key in values and errors, and shows it nowhere."""
        return self._api_key

    @property
    def budget(self) -> Budget | None:
        """The budget that this client reserves from, or None."""
        return self._recorder.budget

    @property
    def journal(self) -> Journal | None:
        """The journal that this client writes, or None."""
        return self._recorder.journal

    def submit(self, request: AnyRequest | None = None, /, **params: Unpack[RequestParams]) -> Job:
        """Give the job future of a request; returns at once.

        The request is an `ImageToVideoUltra`, a mapping with the names of the documentation page, or keywords;
        keywords override the others. It is sent when its turn comes.

        Raises InvalidRequestError with all that is wrong, BudgetExceededError where the budget does not allow it,
        ClientStateError for a closed client or a foreign loop.
        """
        self._enter()
        wanted = normalize_request(request, params)
        image = self._checked(wanted)
        ref = wanted.track_id or _new_ref()
        is_called = False
        if self._common.webhook and wanted.webhook is None:
            is_called, wanted = (
                True,
                attrs.evolve(wanted, webhook=self._common.webhook.url(ref, self._recorder.account)),
            )
        job = Job(self._dispatcher, wanted, ref, image=image, is_called=is_called)
        self._recorder.begin(job)
        self._dispatcher.enqueue(job)
        return job

    def check(self, request: AnyRequest | None = None, /, **params: Unpack[RequestParams]) -> None:
        """What `submit` would check. Nothing is sent or reserved. Raises InvalidRequestError with all that is wrong."""
        self._enter()
        self._checked(normalize_request(request, params))

    async def generate(self, request: AnyRequest | None = None, /, **params: Unpack[RequestParams]) -> Video:
        """`submit`, and await the video."""
        return await self.submit(request, **params)

    def attach(self, job_id: str | int) -> Job:
        """The job future of a job that was submitted before, here or elsewhere, with the same key. It costs nothing.

        `job_id` is the service's id, or the ref of a job that is open here, or that another client left: a ref wins.
        Raises InvalidRequestError for an empty one, and for one that holds the key.
        """
        self._enter()
        known = str(job_id).strip()
        self._api_key.require_absent(job_id=known)
        if left := self._recoverer.attach(known) or self._dispatcher.jobs.get(known):
            self._recoverer.undelivered.discard(left.ref)
            return left
        if not known:
            raise refusal("job_id", job_id, "empty", "pass the id that the service gave")
        job = Job(self._dispatcher, None, _new_ref(), job_id=known)
        self._dispatcher.adopt(job)
        return job

    async def find(self, ref: str) -> JobRecord | None:
        """What the journal knows of the job with this ref, or id of the service; None for nothing.

        Raises ClientStateError without a journal, JournalError, InvalidRequestError for a ref that holds the key.
        """
        self._enter()
        self._api_key.require_absent(ref=ref)
        return await self._recoverer.find(ref)

    async def history(self, limit: int = 100) -> tuple[JobRecord, ...]:
        """The journal's last jobs of this account, the newest first. Raises as `find` does."""
        self._enter()
        return tuple(await self._recoverer.journal.recent(self._recorder.account, limit))

    async def recover(self, refs: Collection[str] | None = None, *, search: bool = False) -> Recovery:
        """Take up what clients that are gone left in the journal: see `Recovery`. Nothing is submitted again.

        With `refs`, only those jobs, by ref or id; also a READY one whose video was saved before. With `search`, the
        account's recent videos that no row knows are listed as candidates; none is matched.

        Raises ClientStateError without a journal, JournalError, InvalidRequestError for a ref that holds the key; with
        `search`, APIError or TransportError.
        """
        self._enter()
        for ref in [refs] if isinstance(refs, str) else refs or ():
            self._api_key.require_absent(refs=ref)
        body = wire.encode_assets(self._api_key)
        assets = await self._call(wire.ASSETS_PATH, body, wire.assets) if search and self._recoverer.journal else ()
        candidates = await self._recoverer.unknown(assets)
        return (await self._recoverer.recover(refs))._replace(candidates=candidates)

    async def resume(self, record: JobRecord) -> Job | None:
        """Take over the job of a journal row and resume it; return the open job if this client has it already.

        Return None if another client that is alive owns the row, if another client took it over first, or if a new job
        uses its ref.

        Raises ClientStateError without a journal, JournalError.
        """
        self._enter()
        journal = self._recoverer.journal
        if record.owner != journal.owner and journal.is_alive(record.owner):
            return None
        job = await self._recoverer.restored(record)
        if job:
            self._recoverer.undelivered.discard(job.ref)
        return job

    async def resubmit(self, records: Iterable[JobRecord]) -> tuple[Job, ...]:
        """Submit jobs that an earlier client never sent, as `recover().unsent` lists them, under their refs.

        A job whose picture is gone, or was passed as bytes, is given as REFUSED: nothing is charged for it.

        Raises InvalidRequestError, before any job is sent, for a record that is not WAITING any more or that another
        client which is alive looks after; ClientStateError without a journal; JournalError.
        """
        self._enter()
        unsent = [await self._recoverer.unsent(record) for record in records]
        return tuple([self._resubmit(record) for record in unsent])

    def _resubmit(self, record: JobRecord) -> Job:
        request = request_from_record(record)
        if request is None or not (record.picture or {}).get("where"):
            hint = "submit it anew, with its picture"
            lost = refusal("init_image", b"", "was passed as bytes, which the journal does not keep", hint)
            return self._refused(request, record.ref, lost)
        return self._submit_or_refuse(self._without_own_webhook(attrs.evolve(request, track_id=record.ref)))

    def _without_own_webhook(self, request: ImageToVideoUltra) -> ImageToVideoUltra:
        """The URL that the earlier client had its webhook make is made anew."""
        own = self._common.webhook and self._common.webhook.url(request.track_id or "", self._recorder.account)
        return attrs.evolve(request, webhook=None) if own and request.webhook == own else request

    async def resolve(self, ref: str, *, id: str | int | None = None, lost: bool = False) -> Job | None:  # noqa: A002
        """A person's word on an uncertain job: the service took it as `id`, or it was `lost` and not charged.

        Gives the job, watched on, or None for one that was lost; that ref may then be submitted again.

        Raises InvalidRequestError where no uncertain job has this ref, the service knows no such id, or not one of the
        two is told.
        """
        self._enter()
        job_id = None if id is None else str(id).strip()
        self._api_key.require_absent(ref=ref, id=job_id)
        if bool(job_id) == lost:
            raise refusal("id", id, "just one of id= and lost=True", "pass what you know of the job")
        if job_id and isinstance(await self._api.fetch(job_id, self._api.timeouts.fetch), wire.UnknownId):
            raise refusal("id", id, "the service knows no such job", CANDIDATES)
        return await self._recoverer.resolve(ref, job_id=job_id)

    def estimate(self, requests: Iterable[AnyRequest]) -> Estimate:
        """What so many requests cost. Nothing is sent or reserved; they are counted, not checked."""
        return self._recorder.prices.estimate(sum(1 for _ in requests))

    async def as_completed(self, jobs: Iterable[Job]) -> AsyncGenerator[Job]:
        """The jobs, each when it ends, however it ends; `job.result()` gives the video or raises."""
        ended: asyncio.Queue[Job] = asyncio.Queue()
        awaited = dict.fromkeys(jobs)
        for job in awaited:
            job.add_done_callback(ended.put_nowait)
        for _ in awaited:
            yield await ended.get()

    async def map(
        self, requests: Iterable[AnyRequest] | AsyncIterable[AnyRequest], *, lookahead: int = 20
    ) -> AsyncGenerator[Job]:
        """Submit requests as there is room, and give each job when it ends: a million without a million objects.

        `lookahead` bounds the jobs that are submitted and not yet given. A request that cannot be sent is given as a
        job that is REFUSED. What the iterable raises is raised here, after the jobs before it were given.
        """
        if lookahead < 1:
            raise refusal("lookahead", lookahead, "at least 1", "pass more")
        feed = BoundedMap(requests, self._submit_or_refuse, lookahead)
        async with aclosing(feed.jobs()) as jobs:
            async for job in jobs:
                yield job

    async def download(
        self,
        video: Video | str,
        path: str | os.PathLike[str],
        *,
        progress: Progress | None = None,
        overwrite: bool = True,
        max_bytes: int = DEFAULT_MAX_BYTES,
    ) -> SavedVideo:
        """Put a video, or what a URL gives, at `path`: streamed, resumed after a break, verified to be a whole mp4.

        Folders are made, and a file that is there is replaced once the new one is whole and on disk; without
        `overwrite` it never is. `progress` is called with the bytes received and the total, or None if the server does
        not say. A file longer than `max_bytes`, 2 GiB by default, is not saved. At most 50 downloads run at once;
        further calls wait.

        Raises InvalidVideoError where no link gives a whole mp4, InvalidRequestError for a path that can be no file,
        FileExistsError without `overwrite`, OSError where the disk does not play along.
        """
        self._enter(closing_too=True)
        return await self._saver.save(video, path, progress, overwrite=overwrite, max_bytes=max_bytes)

    def statistics(self) -> Statistics:
        """What the client did so far, and how it stands: a snapshot."""
        self._enter(closing_too=True)
        return self._dispatcher.statistics()

    async def upload(self, image: ImageInput) -> str:
        """Put a local picture (path, bytes or data URI; 5 MB at most) at the service; gives a URL that lives 24 hours.

        Raises InvalidRequestError for what is no picture, APIError or TransportError.
        """
        self._enter(closing_too=True)
        body = await asyncio.get_running_loop().run_in_executor(None, self._encode_upload, image)
        return await self._call(wire.UPLOAD_PATH, body, wire.upload)

    def _encode_upload(self, image: ImageInput) -> bytes:
        picture = images.examine(ImageToVideoUltra(prompt="upload", init_image=image), Deployment.V6)
        data = images.load(picture)
        if isinstance(data, str):
            raise refusal("image", image, "a URL already", "pass it as init_image as it is")
        return wire.encode_upload(data, images.sniff(data) or "", self._api_key)

    def _checked(self, request: ImageToVideoUltra) -> images.Image:
        """The request's picture. Raises, or warns, as `limits` says."""
        problems = self._api_key.problems_in(track_id=request.track_id) + check(request, self._api.deployment)
        image = None
        try:
            image = images.examine(request, self._api.deployment)
        except InvalidRequestError as error:
            problems += error.problems
        if isinstance(request.track_id, str) and request.track_id in self._dispatcher.jobs:
            requirement = "a job with this track_id is open"
            problems.append(wrong("track_id", request.track_id, requirement, "choose another, or leave it out"))
        limits = self._common.limits
        if problems and (limits == "refuse" or not all(problem.overridable for problem in problems)):
            raise InvalidRequestError(problems)
        for problem in map(self._api_key.redact_problem, problems if limits == "warn" else ()):
            warnings.warn(
                f"{problem.field}={problem.value}: {problem.requirement}", BeyondDocumentationWarning, stacklevel=4
            )
        assert image  # noqa: S101 - raised above
        return image

    def _submit_or_refuse(self, request: AnyRequest) -> Job:
        try:
            return self.submit(request)
        except InvalidRequestError as error:
            refused = request if isinstance(request, ImageToVideoUltra) else None
            ref = refused.track_id if refused and isinstance(refused.track_id, str) else None
            return self._refused(refused, ref or _new_ref(), error)

    def _refused(self, request: ImageToVideoUltra | None, ref: str, error: InvalidRequestError) -> Job:
        """Return a job that ended before it was sent."""
        job = Job(self._dispatcher, request, ref)
        job._advance(lifecycle.Rejected(error))
        return job


def _new_ref() -> str:
    """No two are the same."""
    return os.urandom(16).hex()
