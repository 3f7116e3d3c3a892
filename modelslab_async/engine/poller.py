"""The waiting part: from the service's acceptance to a file that reads."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator
from functools import partial
from typing import TypeVar, assert_never

from modelslab_async.engine.webhook_health import Hearing
from modelslab_async.errors import InvalidVideoError, JobTimeoutError, TransportError
from modelslab_async.job.future import Job
from modelslab_async.media import mp4
from modelslab_async.polling import flow as watch
from modelslab_async.polling.estimator import Experience, Outlook, shape_of
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.record import seed_of
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import Line

_log = logging.getLogger("modelslab_async")
_PROBE_BYTES = 1024
_NO_FILE_YET = 8.0
"""Seconds at most between two rounds over links that do not read yet."""
_Outcome = TypeVar("_Outcome")
_Found = wire.FetchReply | TransportError | watch.Readable | watch.Unreadable


class Watcher:
    """Performs what the core's flows decide."""

    def __init__(
        self,
        line: Line,
        notifier: Notifier,
        strategy: watch.WaitStrategy,
        experience: Experience,
        rate_limiter: RateLimiter,
        hearing: Hearing,
    ) -> None:
        self.notifier = notifier
        self.line, self.experience, self.rate_limiter, self.hearing = line, experience, rate_limiter, hearing
        self.strategy: watch.WaitStrategy = strategy

    def outlook(self, job: Job, eta: float | None) -> Outlook:
        """What is expected of a job, and when to look at it."""
        return Outlook(self.experience, shape_of(job.request), eta, self.line.rng, self.hearing.worth, job._is_called)

    async def follow(self, job: Job) -> None:
        """From the service's acceptance to its word that the job ended."""
        limits = self.line.timeouts
        policy = watch.WatchPolicy(self.strategy, limits.job, limits.fetch, limits.link, at_once=job._is_found)
        links, at = job._accepted.future_links if job._accepted else (), job._loop.time()
        age = at - job._taken_at
        flow = watch.watch(policy, job._outlook, self.rate_limiter, self.line.backoff, now=at, age=age, links=links)
        outcome = await self._perform(job, flow)
        if not job._is_found:
            self._learn(job, outcome)
        if job._is_called and not isinstance(outcome, lifecycle.Abandoned):
            self.hearing.ended(job.ref)
        job._advance(outcome)

    def _learn(self, job: Job, outcome: watch.WatchOutcome) -> None:
        """What the end of a watch tells of jobs of this kind."""
        running, at = job._running_at, job._loop.time()
        if not isinstance(outcome, lifecycle.Abandoned):
            job._outlook.learn(running - job._taken_at, at - job._taken_at)
            self.line.tally.detected(job._looks, at - running)
        elif isinstance(outcome.error, JobTimeoutError):
            job._outlook.learn(running - job._taken_at, math.inf)

    async def find_file(self, job: Job) -> None:
        """From there to a file that reads."""
        accepted, ready = job._accepted, job._ready or wire.Ready()
        announced = accepted.future_links if accepted else ()
        links = tuple(dict.fromkeys((*ready.links, *ready.future_links, *announced)))
        if self.strategy == "poll" and links:
            outcome: watch.Readable | watch.Unreadable = watch.Readable(links[0])
        else:
            limits, at = self.line.timeouts, job._loop.time()
            backoff = partial(retry.delays, self.line.rng, _NO_FILE_YET)
            flow = watch.settle(links, backoff, now=at, probe_timeout=limits.fetch, grace=limits.link)
            outcome = await self._perform(job, flow)
        if isinstance(outcome, watch.Unreadable):
            again = f"{outcome.reason}; Client.attach({job.id!r}) looks again"
            words = f"the service reports success, and no link reads as an mp4: {again}"
            job._advance(lifecycle.Unreadable(InvalidVideoError(words)))
        else:
            job._advance(lifecycle.Verified(_video(job, ready, outcome.url, links)))

    async def _perform(self, job: Job, flow: Generator[watch.Action, watch.Seen, _Outcome]) -> _Outcome:
        """Drive a flow of the core to its end."""
        time = job._loop.time
        try:
            action = next(flow)
            while True:
                found, woken = None, False
                match action:
                    case watch.Wait(seconds=seconds, wakeable=True):
                        woken = await job._sleep(seconds)
                    case watch.Wait(seconds=seconds):
                        await asyncio.sleep(seconds)
                    case watch.Fetch() | watch.Probe():
                        found = await self._look(job, action)
                    case _:
                        assert_never(action)
                action = flow.send(watch.Seen(time(), found, woken))
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome

    async def _look(self, job: Job, action: watch.Fetch | watch.Probe) -> _Found:
        found: _Found
        if isinstance(action, watch.Fetch):
            found = await self.line.fetch(job.id or "", action.timeout)
            if isinstance(found, TransportError):
                _log.info("%r: a look failed: %s", job, found)
        else:
            found = await self._probe(action.url, action.timeout)
        if isinstance(found, wire.NotReady):
            self.line.note(found.notes)
        job._looked(running=isinstance(found, wire.NotReady))
        _log.debug("%r: looked: %s", job, type(found).__name__)
        self.notifier.notify(Telemetry.looked, job, type(found).__name__)
        return found

    async def _probe(self, url: str, timeout: float) -> watch.Readable | watch.Unreadable:
        """Read the first bytes of a link. No key goes along."""
        try:
            reply = await self.line.head(url, _PROBE_BYTES, timeout)
        except TransportError as error:
            return watch.Unreadable(str(error.args[0]))
        if reply.status not in (200, 206):
            return watch.Unreadable(f"HTTP {reply.status}")
        return watch.Readable(url) if mp4.looks_like_mp4(reply.body) else watch.Unreadable("not an mp4")


def _video(job: Job, ready: wire.Ready, url: str, links: tuple[str, ...]) -> Video:
    meta = ready.meta or (job._accepted and job._accepted.meta) or {}
    seed = seed_of(meta)
    asked = job.request.seed if job.request else None
    return Video(
        id=job.id,
        ref=job.ref,
        url=url,
        links=links,
        seed=asked if seed is None else seed,
        meta=dict(meta),
        generation_time=ready.generation_time,
        is_temporary=bool(job.request and job.request.temp),
    )
