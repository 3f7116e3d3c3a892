"""Wait for a job: from the service's acceptance to a file that can be read."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Generator, Sequence
from functools import partial
from typing import TypeVar, assert_never
from urllib.parse import urlsplit

from modelslab_async.engine.webhook_health import WebhookHealth
from modelslab_async.errors import (
    InvalidRequestError,
    InvalidVideoError,
    JobTimeoutError,
    NotFoundError,
    TransportError,
)
from modelslab_async.job.run import JobRun
from modelslab_async.media.containers import CONTAINERS, container_of
from modelslab_async.polling import flow
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.schedule import RateLimiter
from modelslab_async.polling.workload import workload_of
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.operations import OPERATIONS, Container
from modelslab_async.protocol.record import seed_of
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi

_log = logging.getLogger("modelslab_async")
_PROBE_BYTES = 1024
_LONGEST_PROBE_GAP = 8.0
"""Seconds between two rounds of probes of links that cannot be read yet, at most."""
_DELIVERED_WITHIN = 2.0
"""Seconds from a job's end to the delivery that reports it, for an estimate of how long the job took."""
_Outcome = TypeVar("_Outcome")
_Found = wire.FetchReply | TransportError | flow.Readable | flow.Unreadable


class Poller:
    """Perform what the pure flows of `polling.flow` decide."""

    def __init__(
        self,
        api: ServiceApi,
        notifier: Notifier,
        strategy: flow.WaitStrategy,
        estimator: DurationEstimator,
        rate_limiter: RateLimiter,
        webhook_health: WebhookHealth,
    ) -> None:
        self.api, self.notifier, self.estimator, self.rate_limiter = api, notifier, estimator, rate_limiter
        self.webhook_health = webhook_health
        self.strategy: flow.WaitStrategy = strategy

    def forecast(self, run: JobRun, eta: float | None) -> JobForecast:
        """Return when the job is expected to end, and so when to poll it. *eta* is the service's estimate, or None."""
        poll_value = self.webhook_health.poll_value
        return JobForecast(
            self.estimator, workload_of(run.request, run.operation), eta, self.api.rng, poll_value, run.has_webhook
        )

    async def poll_until_done(self, run: JobRun) -> None:
        """Poll a job until the service says that it ended, and advance it by the outcome."""
        policy = flow.PollPolicy(
            self.strategy,
            self.api.timeouts.job,
            self.api.timeouts.fetch,
            self.api.timeouts.link,
            at_once=run.submitted_elsewhere,
            unknown_id_grace=0.0 if run.is_unknown else flow.UNKNOWN_ID_GRACE,
        )
        now = run.loop.time()
        steps = flow.poll_until_done(
            policy,
            run.forecast,
            self.rate_limiter,
            self.api.backoff,
            now=now,
            age=now - run.accepted_at,
            links=run.accepted.future_links if run.accepted else (),
        )
        try:
            outcome = await self._perform(run, steps)
        except InvalidRequestError as error:  # a row of an operation that this version or this server does not have
            outcome = lifecycle.Abandoned(error)
        if not run.submitted_elsewhere:
            self._learn_from(run, outcome)
        if run.has_webhook and isinstance(outcome, lifecycle.Abandoned):
            self.webhook_health.forget(run.ref)
        elif run.has_webhook:
            self.webhook_health.ended(run.ref)
        if run.is_unknown and isinstance(outcome, lifecycle.Abandoned) and isinstance(outcome.error, NotFoundError):
            run.advance(lifecycle.NotFound(_not_found(run, outcome.error)))
        else:
            run.advance(outcome)

    def _learn_from(self, run: JobRun, outcome: flow.PollOutcome) -> None:
        """Teach the estimator how long the job took. A delivery that led to the last poll shows it best."""
        last_running, now = run.last_seen_running_at, run.loop.time()
        if not isinstance(outcome, lifecycle.Abandoned):
            after = max(last_running, run.woken_at - _DELIVERED_WITHIN)
            run.forecast.learn(after - run.accepted_at, now - run.accepted_at)
            self.api.counters.detected(run.polls, now - last_running)
        elif isinstance(outcome.error, JobTimeoutError):
            run.forecast.learn(last_running - run.accepted_at, math.inf)

    async def poll_until_readable(self, run: JobRun) -> None:
        """Probe the links of a job that the service calls done until one returns the video, and advance the job."""
        accepted, ready = run.accepted, run.ready or wire.Ready()
        announced = accepted.future_links if accepted else ()
        links = tuple(dict.fromkeys((*ready.links, *ready.future_links, *announced)))
        if self.strategy == "poll" and links:
            outcome: flow.Readable | flow.Unreadable = _announced(links[0], _containers_of(run))
        else:
            limits, now = self.api.timeouts, run.loop.time()
            backoff = partial(retry.delays, self.api.rng, _LONGEST_PROBE_GAP)
            steps = flow.poll_until_readable(links, backoff, now=now, probe_timeout=limits.fetch, grace=limits.link)
            outcome = await self._perform(run, steps)
        if isinstance(outcome, flow.Unreadable):
            wanted = " or ".join(_containers_of(run))
            what = f"the service reports success, but no link returns an {wanted}: {outcome.reason}"
            hint = f"(hint: Client.attach({run.id or run.ref!r}) tries again)"
            run.advance(lifecycle.Unreadable(InvalidVideoError(f"{what} {hint}")))
        else:
            run.advance(lifecycle.Verified(_video(run, ready, outcome, links)))

    async def _perform(self, run: JobRun, steps: Generator[flow.Action, flow.ActionResult, _Outcome]) -> _Outcome:
        """Drive a flow to its end."""
        time = run.loop.time
        try:
            action = next(steps)
            while True:
                found, woken = None, False
                match action:
                    case flow.Wait(seconds=seconds, wakeable=True):
                        woken = await run.sleep(seconds)
                    case flow.Wait(seconds=seconds):
                        await asyncio.sleep(seconds)
                    case flow.Fetch() | flow.Probe():
                        found = await self._poll(run, action)
                    case _:
                        assert_never(action)
                action = steps.send(flow.ActionResult(time(), found, woken))
        except StopIteration as end:
            outcome: _Outcome = end.value
            return outcome

    async def _poll(self, run: JobRun, action: flow.Fetch | flow.Probe) -> _Found:
        """Ask the service or a link once."""
        found: _Found
        if isinstance(action, flow.Fetch):
            found = await self.api.fetch(run.operation, run.id or "", action.timeout)
            if isinstance(found, TransportError):
                run.log(logging.INFO, "a poll failed: %s", found)
        else:
            found = await self._probe(action.url, action.timeout, _containers_of(run))
        if isinstance(found, wire.NotReady):
            self.api.log_notes(found.notes)
        run.polled(running=isinstance(found, wire.NotReady))
        run.log(logging.DEBUG, "polled: %s", type(found).__name__)
        self.notifier.notify(Telemetry.polled, run.job, type(found).__name__)
        return found

    async def _probe(self, url: str, timeout: float, allowed: Sequence[Container]) -> flow.Readable | flow.Unreadable:
        """Read the first bytes of a link. The request carries no key."""
        try:
            reply = await self.api.probe(url, _PROBE_BYTES, timeout)
        except TransportError as error:
            return flow.Unreadable(str(error.args[0]))
        if reply.status not in (200, 206):
            return flow.Unreadable(f"HTTP {reply.status}")
        if container := container_of(reply.body, allowed):
            return flow.Readable(url, container)
        return flow.Unreadable(f"not an {' or '.join(allowed)}")


def _containers_of(run: JobRun) -> Sequence[Container]:
    """Return what the job's video may be."""
    row = OPERATIONS.get(run.operation)
    return row.containers if row else CONTAINERS


def _announced(url: str, allowed: Sequence[Container]) -> flow.Readable:
    """Return a link that is not probed. Its suffix shows the container."""
    is_gif = "gif" in allowed and urlsplit(url).path.lower().endswith(".gif")
    return flow.Readable(url, "gif" if is_gif else "mp4")


def _video(run: JobRun, ready: wire.Ready, readable: flow.Readable, links: tuple[str, ...]) -> Video:
    meta = ready.meta or (run.accepted and run.accepted.meta) or {}
    seed = seed_of(meta)
    requested_seed = run.request.seed if run.request else None
    return Video(
        id=run.id,
        ref=run.ref,
        url=readable.url,
        links=links,
        seed=requested_seed if seed is None else seed,
        meta=dict(meta),
        generation_time=ready.generation_time,
        is_temporary=bool(getattr(run.request, "temp", False)),
        operation=run.operation,
        container=readable.container,
    )


def _not_found(run: JobRun, error: NotFoundError) -> NotFoundError:
    """Return the error of a job that was attached to by an id which the service does not know."""
    if not (run.id or "").isdecimal():  # it is no id at all
        return error
    hint = f"if it is not a job of {run.operation}, pass its operation="
    return NotFoundError(f"{error.message} (hint: {hint})", http_status=error.http_status)
