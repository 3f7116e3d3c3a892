"""The shell around the pure core: takes one job from its turn to its end."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar, assert_never

import attrs

from modelslab_async import download, images
from modelslab_async.books import Books
from modelslab_async.download import Progress, SavedVideo
from modelslab_async.endings import closed_before, ends_well, uncertain
from modelslab_async.errors import (
    APIError,
    InvalidRequestError,
    InvalidVideoError,
    JobFailedError,
    JobTimeoutError,
    JournalError,
    ModelsLabError,
    SubmitUncertainError,
    TransportError,
)
from modelslab_async.job import Job
from modelslab_async.protocol import lifecycle, mp4, retry, watch, wire
from modelslab_async.protocol.body import HttpReply, Malformed, Refused
from modelslab_async.protocol.experience import Experience, Outlook, shape_of
from modelslab_async.protocol.lifecycle import JobState, Video
from modelslab_async.protocol.pace import Pace
from modelslab_async.protocol.request import Endpoint
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.tally import RequestKind, Tally
from modelslab_async.transport import Incoming, Timeouts, Transport

_log = logging.getLogger("modelslab_async")
_PROBE_BYTES = 1024
_MOST_NOTES = 50
_NO_FILE_YET = 8.0
"""Seconds at most between two rounds over links that do not read yet."""
_T = TypeVar("_T")
_Outcome = TypeVar("_Outcome")


@attrs.define(kw_only=True)
class Driver:
    """Performs what the core decides. One for each Client."""

    transport: Transport
    key: ApiKey
    base_url: str
    endpoint: Endpoint
    timeouts: Timeouts
    strategy: watch.WaitStrategy
    experience: Experience
    pace: Pace
    books: Books
    rng: random.Random
    tally: Tally = attrs.field(factory=Tally, init=False)
    closing: asyncio.Event = attrs.field(factory=asyncio.Event, init=False)
    saves: set[asyncio.Future[None]] = attrs.field(factory=set[asyncio.Future[None]], init=False)
    """The downloads under way; each is done when its download is."""
    _noted: set[str] = attrs.field(factory=set[str], init=False)

    async def submit(self, job: Job, image: images.Image) -> None:
        """From the job's turn to the service's answer."""
        with ends_well(job):
            try:
                body, picture = await self._encoded(job, image)
                await self.books.intend(job, picture)
            except (InvalidRequestError, JournalError) as error:  # its picture is gone, or it cannot be written down
                job._advance(lifecycle.Rejected(error))
                return
            event = await self._post_submit(job, body)
            try:
                await self.books.answered(job, event)
            finally:
                job._advance(event)

    async def follow(self, job: Job) -> None:
        """From the service's acceptance to the job's end."""
        with ends_well(job):
            if job.state is JobState.PROCESSING:
                await self._watch(job)
            if job.state is JobState.READY:
                await self._find_file(job)

    async def call(self, path: str, body: bytes, decode: Callable[[HttpReply, ApiKey], _T | Refused | Malformed]) -> _T:
        """A call that costs nothing, repeated while its failure may pass."""
        waits = islice(retry.delays(self.rng), retry.CALL_ATTEMPTS - 1)
        while True:
            error: ModelsLabError
            try:
                reply = decode(await self._post("call", path, body, self.timeouts.fetch), self.key)
                if not isinstance(reply, Refused | Malformed):
                    return reply
                error = wire.error_of(reply)
            except TransportError as lost:
                error = lost
            error.charged = False
            wait = next(waits, None)
            if wait is None or not retry.may_pass(error):
                raise error
            await asyncio.sleep(max(wait, _wished(error)))

    async def save(
        self, video: Video | str | Job, path: str | os.PathLike[str], progress: Progress | None
    ) -> SavedVideo:
        """Put a video, a job's video once it is there, or what a URL gives, on disk."""
        with self._saving():
            return await self._save(await video if isinstance(video, Job) else video, path, progress)

    @contextmanager
    def _saving(self) -> Iterator[None]:
        saved = asyncio.get_running_loop().create_future()
        self.saves.add(saved)
        try:
            yield
        finally:
            self.saves.discard(saved)
            saved.cancel()

    async def _save(self, video: Video | str, path: str | os.PathLike[str], progress: Progress | None) -> SavedVideo:
        if isinstance(video, str):
            return await self._download([video], path, progress)
        links = list(dict.fromkeys((video.url, *video.links)))
        try:
            try:
                saved = await self._download(links, path, progress)
            except InvalidVideoError:  # links die: the service may name others
                fresh = [link for link in await self._fresh_links(video) if link not in links]
                if not fresh:
                    raise
                saved = await self._download(fresh, path, progress)
        except InvalidVideoError as error:
            error.about(ref=video.ref, job_id=video.id, charged=True, price=self.books.prices.usd)
            raise
        await self.books.saved(video.ref, str(saved.path.absolute()))
        return saved

    async def _download(
        self, links: Sequence[str], path: str | os.PathLike[str], progress: Progress | None
    ) -> SavedVideo:
        return await download.save(
            partial(self._get, "download"),
            links,
            path,
            progress=progress,
            read_timeout=self.timeouts.read,
            backoff=self._backoff,
        )

    async def _fresh_links(self, video: Video) -> tuple[str, ...]:
        """Where the service says that the file is now; nothing where it cannot be asked."""
        if not video.id:
            return ()
        with suppress(TransportError):
            body = wire.encode_body({}, self.key)
            reply = await self._post("fetch", wire.fetch_path(self.endpoint, video.id), body, self.timeouts.fetch)
            answer = wire.decode_fetch(reply, self.key)
            return answer.links if isinstance(answer, wire.Ready) else ()
        return ()

    # --- submit ----------------------------------------------------------------------------------------------------

    async def _encoded(self, job: Job, image: images.Image) -> tuple[bytes, Mapping[str, Any]]:
        """The body, and what the journal keeps of the picture in it."""
        if isinstance(image, images.ImageUrl):
            return self._encode(job, image)
        return await asyncio.get_running_loop().run_in_executor(None, self._encode, job, image)

    def _encode(self, job: Job, image: images.Image) -> tuple[bytes, Mapping[str, Any]]:
        assert job.request is not None  # noqa: S101 - a job without a request was submitted elsewhere
        params = wire.encode_request(job.request, ref=job.ref)
        picture = images.load(image)
        return wire.encode_body(params, self.key, picture=picture), images.facts(image, picture)

    async def _post_submit(self, job: Job, body: bytes) -> lifecycle.Event:
        """The paid POST, repeated only while it surely was not taken."""
        waits = islice(retry.delays(self.rng), retry.SUBMIT_ATTEMPTS - 1)
        while not self.closing.is_set():
            reply = await self._post_once(job, body)
            if not isinstance(reply, Refused | Malformed | TransportError):
                return self._answered(reply)
            error = reply if isinstance(reply, TransportError) else wire.error_of(reply)
            match retry.after_submit(error):
                case retry.Verdict.REPEAT if (wait := next(waits, None)) is not None:
                    _log.warning("%r: surely not taken, so it is sent again: %s", job, error)
                    await _until(self.closing, max(wait, _wished(error)))
                case retry.Verdict.PUT_BACK:
                    maximum = reply.maximum if isinstance(reply, Refused) else None
                    return lifecycle.PutBack(_wished(error) or None, maximum)
                case retry.Verdict.REPEAT | retry.Verdict.REFUSED:
                    return lifecycle.Rejected(error)
                case retry.Verdict.UNCERTAIN:
                    return lifecycle.ReplyLost(uncertain(error))
        return lifecycle.Rejected(closed_before())

    async def _post_once(self, job: Job, body: bytes) -> wire.SubmitReply | TransportError:
        try:
            reply = await self._post("submit", wire.submit_path(self.endpoint), body, self.timeouts.submit)
        except TransportError as error:
            return error
        except asyncio.CancelledError:
            job._advance(lifecycle.ReplyLost(SubmitUncertainError("cancelled while the submit was under way")))
            raise
        return wire.decode_submit(reply, self.key)

    def _answered(self, reply: wire.Accepted | wire.Ready | wire.Failed) -> lifecycle.Event:
        match reply:
            case wire.Accepted():
                self._note(reply.notes)
                return lifecycle.Accepted(reply)
            case wire.Ready():
                return lifecycle.Succeeded(reply)
            case wire.Failed(message=message, id=job_id):
                return lifecycle.Failed(JobFailedError(f"the service failed the job at once: {message}"), job_id)
            case _:
                assert_never(reply)

    # --- wait ------------------------------------------------------------------------------------------------------

    def outlook(self, job: Job, eta: float | None) -> Outlook:
        """What is expected of a job, and when to look at it."""
        return Outlook(self.experience, shape_of(job.request), eta, self.rng)

    async def _watch(self, job: Job) -> None:
        limits, accepted = self.timeouts, job._accepted
        policy = watch.WatchPolicy(
            strategy=self.strategy, timeout=limits.job, fetch_timeout=limits.fetch, at_once=job._is_found
        )
        links, now = accepted.future_links if accepted else (), _now()
        age = now - job._taken_at
        flow = watch.watch(policy, job._outlook, self.pace, self._backoff, now=now, age=age, links=links)
        outcome = await self._perform(job, flow)
        if not job._is_found:
            self._learn(job, outcome)
        match outcome:
            case wire.Ready():
                job._advance(lifecycle.Succeeded(outcome))
            case watch.Failed(error=error):
                job._advance(lifecycle.Failed(error))
            case watch.GaveUp(error=error):
                job._advance(lifecycle.Abandoned(error))
            case _:
                assert_never(outcome)

    def _learn(self, job: Job, outcome: watch.WatchOutcome) -> None:
        """What the end of a watch tells of jobs of this kind."""
        running, now = job._running_at, _now()
        if not isinstance(outcome, watch.GaveUp):
            job._outlook.learn(running - job._taken_at, now - job._taken_at)
            self.tally.detected(job._looks, now - running)
        elif isinstance(outcome.error, JobTimeoutError):
            job._outlook.learn(running - job._taken_at, math.inf)

    async def _find_file(self, job: Job) -> None:
        accepted, ready = job._accepted, job._ready or wire.Ready()
        announced = accepted.future_links if accepted else ()
        links = tuple(dict.fromkeys((*ready.links, *ready.future_links, *announced)))
        if self.strategy == "poll" and links:
            outcome: watch.Readable | watch.Unreadable = watch.Readable(links[0])
        else:
            limits = self.timeouts
            flow = watch.settle(links, self._backoff_links, now=_now(), probe_timeout=limits.fetch, grace=limits.link)
            outcome = await self._perform(job, flow)
        if isinstance(outcome, watch.Unreadable):
            job._advance(lifecycle.Unreadable(InvalidVideoError(_no_file(job, outcome.reason))))
        else:
            job._advance(lifecycle.Verified(_video(job, ready, outcome.url, links)))

    async def _perform(self, job: Job, flow: Generator[watch.Action, watch.Seen, _Outcome]) -> _Outcome:
        """Drive a flow of the core to its end."""
        try:
            action = next(flow)
            while True:
                action = flow.send(await self._act(job, action))
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome

    async def _act(self, job: Job, action: watch.Action) -> watch.Seen:
        match action:
            case watch.Wait(seconds=seconds, wakeable=False):
                await asyncio.sleep(seconds)
                return watch.Seen(_now())
            case watch.Wait(seconds=seconds):
                woken = await _until(job._awake, seconds)
                job._awake.clear()  # one wake-up, one look
                return watch.Seen(_now(), woken=woken)
            case watch.Fetch(timeout=timeout):
                reply = await self._fetch(job, timeout)
                job._looked(running=isinstance(reply, wire.NotReady))
                return watch.Seen(_now(), reply)
            case watch.Probe(url=url, timeout=timeout):
                found = await self._probe(url, timeout)
                job._looked(running=False)
                return watch.Seen(_now(), found)
            case _:
                assert_never(action)

    async def _fetch(self, job: Job, timeout: float) -> wire.FetchReply | TransportError:
        path = wire.fetch_path(self.endpoint, job.id or "")
        try:
            reply = wire.decode_fetch(
                await self._post("fetch", path, wire.encode_body({}, self.key), timeout), self.key
            )
        except TransportError as error:
            _log.info("%r: a look failed: %s", job, error)
            return error
        if isinstance(reply, wire.NotReady):
            self._note(reply.notes)
        _log.debug("%r: looked: %s", job, type(reply).__name__)
        return reply

    async def _probe(self, url: str, timeout: float) -> watch.Readable | watch.Unreadable:
        """Read the first bytes of a link. No key goes along."""
        head = b""
        headers = {"Range": f"bytes=0-{_PROBE_BYTES - 1}", "Accept-Encoding": "identity"}
        try:
            async with (
                asyncio.timeout(_finite(timeout)),
                self._get("probe", url, headers=headers, timeout=_finite(timeout)) as incoming,
            ):
                if incoming.status not in (200, 206):
                    return watch.Unreadable(f"HTTP {incoming.status}")
                async with aclosing(incoming.chunks()) as chunks:
                    async for chunk in chunks:
                        head += chunk
                        if len(head) >= mp4.HEAD_BYTES:
                            break
        except (TransportError, TimeoutError) as error:
            return watch.Unreadable(str(error) or "timed out")
        return watch.Readable(url) if mp4.looks_like_mp4(head) else watch.Unreadable("not an mp4")

    # --- small things ----------------------------------------------------------------------------------------------

    async def _post(self, kind: RequestKind, path: str, body: bytes, timeout: float | None) -> HttpReply:
        self.tally.requests[kind] += 1
        return await self.transport.post(self.base_url + path, body, timeout=_finite(timeout))

    def _get(
        self, kind: RequestKind, url: str, *, headers: Mapping[str, str], timeout: float | None
    ) -> AbstractAsyncContextManager[Incoming]:
        self.tally.requests[kind] += 1
        return self.transport.get(url, headers=headers, timeout=timeout)

    def _backoff(self) -> Iterator[float]:
        return retry.delays(self.rng)

    def _backoff_links(self) -> Iterator[float]:
        return retry.delays(self.rng, longest=_NO_FILE_YET)

    def _note(self, notes: tuple[str, ...]) -> None:
        """Tell an oddity once."""
        for note in notes:
            if note not in self._noted and len(self._noted) < _MOST_NOTES:
                self._noted.add(note)
                _log.warning("the service says something odd, told once: %s", note)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _finite(seconds: float | None) -> float | None:
    return None if seconds is None or math.isinf(seconds) else seconds


def _wished(error: ModelsLabError) -> float:
    return error.retry_after or 0.0 if isinstance(error, APIError) else 0.0


async def _until(event: asyncio.Event, seconds: float) -> bool:
    """Let so many seconds pass, or less if the event comes. Whether it came."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


def _video(job: Job, ready: wire.Ready, url: str, links: tuple[str, ...]) -> Video:
    meta = ready.meta or (job._accepted.meta if job._accepted else {})
    seed = meta.get("seed")
    asked = job.request.seed if job.request else None
    return Video(
        id=job.id,
        ref=job.ref,
        url=url,
        links=links,
        seed=seed if isinstance(seed, int) else asked,
        meta=meta,
        generation_time=ready.generation_time,
        is_temporary=bool(job.request and job.request.temp),
    )


def _no_file(job: Job, reason: str) -> str:
    return f"the service reports success, and no link reads as an mp4: {reason}; Client.attach({job.id!r}) looks again"
