"""The waiting part: from the service's acceptance to a file that reads."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator
from functools import partial
from typing import TypeVar, assert_never

from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.errors import InvalidVideoError, JobTimeoutError, TransportError
from modelslab_async.job.future import Job
from modelslab_async.media import mp4
from modelslab_async.polling import flow
from modelslab_async.polling.estimator import DurationEstimator, JobForecast, shape_of
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.record import seed_of
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi

_log = logging.getLogger("modelslab_async")
_PROBE_BYTES = 1024
_NO_FILE_YET = 8.0
"""Seconds at most between two rounds over links that do not read yet."""
_Outcome = TypeVar("_Outcome")
_Found = wire.FetchReply | TransportError | flow.Readable | flow.Unreadable


class Poller:
    """Performs what the core's flows decide."""

    def __init__(
        self,
        api: ServiceApi,
        notifier: Notifier,
        strategy: flow.WaitStrategy,
        estimator: DurationEstimator,
        rate_limiter: RateLimiter,
        webhook_health: WebhookHealth,
    ) -> None:
        self.notifier = notifier
        self.api, self.estimator, self.rate_limiter, self.webhook_health = api, estimator, rate_limiter, webhook_health
        self.strategy: flow.WaitStrategy = strategy

    def forecast(self, job: Job, eta: float | None) -> JobForecast:
        """What is expected of a job, and when to look at it."""
        return JobForecast(
            self.estimator, shape_of(job.request), eta, self.api.rng, self.webhook_health.poll_value, job._is_called
        )

    async def follow(self, job: Job) -> None:
        """From the service's acceptance to its word that the job ended."""
        limits = self.api.timeouts
        policy = flow.PollPolicy(self.strategy, limits.job, limits.fetch, limits.link, at_once=job._is_found)
        links, at = job._accepted.future_links if job._accepted else (), job._loop.time()
        age = at - job._taken_at
        steps = flow.poll_until_done(
            policy, job._forecast, self.rate_limiter, self.api.backoff, now=at, age=age, links=links
        )
        outcome = await self._perform(job, steps)
        if not job._is_found:
            self._learn(job, outcome)
        if job._is_called and not isinstance(outcome, lifecycle.Abandoned):
            self.webhook_health.ended(job.ref)
        job._advance(outcome)

    def _learn(self, job: Job, outcome: flow.PollOutcome) -> None:
        """What the end of a watch tells of jobs of this kind."""
        running, at = job._running_at, job._loop.time()
        if not isinstance(outcome, lifecycle.Abandoned):
            job._forecast.learn(running - job._taken_at, at - job._taken_at)
            self.api.counters.detected(job.polls, at - running)
        elif isinstance(outcome.error, JobTimeoutError):
            job._forecast.learn(running - job._taken_at, math.inf)

    async def find_file(self, job: Job) -> None:
        """From there to a file that reads."""
        accepted, ready = job._accepted, job._ready or wire.Ready()
        announced = accepted.future_links if accepted else ()
        links = tuple(dict.fromkeys((*ready.links, *ready.future_links, *announced)))
        if self.strategy == "poll" and links:
            outcome: flow.Readable | flow.Unreadable = flow.Readable(links[0])
        else:
            limits, at = self.api.timeouts, job._loop.time()
            backoff = partial(retry.delays, self.api.rng, _NO_FILE_YET)
            steps = flow.poll_until_readable(links, backoff, now=at, probe_timeout=limits.fetch, grace=limits.link)
            outcome = await self._perform(job, steps)
        if isinstance(outcome, flow.Unreadable):
            again = f"{outcome.reason}; Client.attach({job.id!r}) looks again"
            words = f"the service reports success, and no link reads as an mp4: {again}"
            job._advance(lifecycle.Unreadable(InvalidVideoError(words)))
        else:
            job._advance(lifecycle.Verified(_video(job, ready, outcome.url, links)))

    async def _perform(self, job: Job, steps: Generator[flow.Action, flow.ActionResult, _Outcome]) -> _Outcome:
        """Drive a flow of the core to its end."""
        time = job._loop.time
        try:
            action = next(steps)
            while True:
                found, woken = None, False
                match action:
                    case flow.Wait(seconds=seconds, wakeable=True):
                        woken = await job._sleep(seconds)
                    case flow.Wait(seconds=seconds):
                        await asyncio.sleep(seconds)
                    case flow.Fetch() | flow.Probe():
                        found = await self._look(job, action)
                    case _:
                        assert_never(action)
                action = steps.send(flow.ActionResult(time(), found, woken))
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome

    async def _look(self, job: Job, action: flow.Fetch | flow.Probe) -> _Found:
        found: _Found
        if isinstance(action, flow.Fetch):
            found = await self.api.fetch(job.id or "", action.timeout)
            if isinstance(found, TransportError):
                _log.info("%r: a look failed: %s", job, found)
        else:
            found = await self._probe(action.url, action.timeout)
        if isinstance(found, wire.NotReady):
            self.api.note(found.notes)
        job.polled(running=isinstance(found, wire.NotReady))
        _log.debug("%r: looked: %s", job, type(found).__name__)
        self.notifier.notify(Telemetry.polled, job, type(found).__name__)
        return found

    async def _probe(self, url: str, timeout: float) -> flow.Readable | flow.Unreadable:
        """Read the first bytes of a link. No key goes along."""
        try:
            reply = await self.api.head(url, _PROBE_BYTES, timeout)
        except TransportError as error:
            return flow.Unreadable(str(error.args[0]))
        if reply.status not in (200, 206):
            return flow.Unreadable(f"HTTP {reply.status}")
        return flow.Readable(url) if mp4.looks_like_mp4(reply.body) else flow.Unreadable("not an mp4")


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
