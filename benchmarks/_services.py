"""Services that change or whose jobs differ, as streams of jobs that one client watches one after the other.

Each job's time is a quantile of one distribution, multiplied by the job's own scale. The client learns from jobs with
random times. But a job is scored by the expected cost over the whole distribution, so that the figures have little
noise. The optimum knows the distribution and the job's scale.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from statistics import fmean

import attrs

from benchmarks._simulator import DISTRIBUTIONS, ETAS, PEERS, optimum_of, poll_times
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.schedule import gaps_at
from modelslab_async.polling.workload import Workload

_QUANTILES = 400
"""The times for which a job is scored."""
_NORMAL_FRAMES = 81
_FRAMES = (16, 33, 49, 65, 81, 121, 161, 201, 240)
_MOMENTS = 500


@attrs.frozen
class SimulatedJob:
    """A job of the stream.

    frames: the size of its request. scale: its median time, as a multiple of the distribution's median.
    operation: what it is, which the client knows.
    """

    frames: int
    scale: float
    operation: str = "img2video_ultra"


Stream = Callable[[int, random.Random], SimulatedJob]
"""From the number of a job, counted from the first that is scored, to the job. Jobs before have negative numbers."""


@attrs.frozen
class Service:
    """A kind of service.

    stream: its jobs. known: the jobs that the client watched before the first that is scored. scored: the jobs that are
    scored. distribution: of their times, by its name in DISTRIBUTIONS. changes: whether the service changes while jobs
    are scored.
    """

    stream: Stream
    known: int = 200
    scored: int = 100
    distribution: str = "lognormal 0.25"
    changes: bool = False


def _sizes(time_of: Callable[[int], float]) -> Stream:
    """Return jobs of mixed sizes. *time_of* is the median time of a size, as a multiple of that of a normal job."""

    def stream(_: int, rng: random.Random) -> SimulatedJob:
        frames = rng.choice(_FRAMES)
        return SimulatedJob(frames, time_of(frames))

    return stream


_OPERATIONS: Mapping[str, float] = {
    "img2video_ultra": 1.0,
    "text2video_ultra": 0.6,
    "image-to-video": 3.0,
    "lip-sync": 6.0,
    "text2video": 0.3,
}
"""Made-up median times of operations, as multiples of that of a normal job."""


def _mixed(_: int, rng: random.Random) -> SimulatedJob:
    """Return a job of one of five operations, whose times have nothing to do with each other."""
    operation = rng.choice(list(_OPERATIONS))
    return SimulatedJob(_NORMAL_FRAMES, _OPERATIONS[operation], operation)


def _changing(scale_of: Callable[[int], float]) -> Stream:
    """Return jobs of one size for a service whose speed changes."""
    return lambda number, _: SimulatedJob(_NORMAL_FRAMES, scale_of(number))


def _step(factor: float) -> Stream:
    return _changing(lambda number: factor if number >= 0 else 1.0)


def _drift(number: int) -> float:
    """Return the scale if jobs of 40 s become jobs of 160 s over 100 jobs."""
    return 40 / 45 * 4 ** (min(max(number, 0), 100) / 100)


def _day_and_night(number: int) -> float:
    """Return the scale if jobs take between 24 and 84 s, with a period of 100 jobs."""
    return math.exp(math.log(3.5) / 2 * math.sin(2 * math.pi * number / 100))


SERVICES: Mapping[str, Service] = {
    "16 to 240 frames, after 30": Service(_sizes(lambda frames: frames / _NORMAL_FRAMES), known=30),
    "16 to 240 frames": Service(_sizes(lambda frames: frames / _NORMAL_FRAMES)),
    "the same, narrow": Service(_sizes(lambda frames: frames / _NORMAL_FRAMES), distribution="narrow"),
    "frames and 15 s more": Service(_sizes(lambda frames: (15 + 30 * frames / _NORMAL_FRAMES) / 45)),
    "frames do not matter": Service(_sizes(lambda _: 1.0)),
    "five operations, mixed": Service(_mixed),
    "five operations, after 30": Service(_mixed, known=30),
    "4 times slower after 1,000": Service(_step(4.0), known=1000, changes=True),
    "4 times slower after 10,000": Service(_step(4.0), known=10_000, changes=True),
    "1.5 times slower after 300": Service(_step(1.5), known=300, changes=True),
    "4 times faster after 300": Service(_step(0.25), known=300, changes=True),
    "4 times slower, two peaks": Service(_step(4.0), known=300, distribution="two peaks", changes=True),
    "drift from 40 to 160 s": Service(_changing(_drift), scored=150, changes=True),
    "day and night": Service(_changing(_day_and_night), changes=True),
}


@lru_cache
def _quantiles(distribution: str) -> tuple[float, ...]:
    quantile = DISTRIBUTIONS[distribution]
    return tuple(quantile((job + 0.5) / _QUANTILES) for job in range(_QUANTILES))


def _cost(at: Sequence[float], jobs: Sequence[float], scale: float, poll_cost: float) -> float:
    """Return the expected cost of polls at these times for jobs whose times are these, multiplied by *scale*."""
    polls = [bisect_left(at, seconds * scale) for seconds in jobs]
    late = fmean(at[poll] - seconds * scale for poll, seconds in zip(polls, jobs, strict=True))
    return late + poll_cost * (fmean(polls) + 1)


@cache
def _least_cost(distribution: str, scale: float, poll_cost: float) -> float:
    """Return the optimum's cost. A job that takes twice as long is a job whose polls cost half as much, twice."""
    return scale * optimum_of(_quantiles(distribution), poll_cost / scale, _MOMENTS).cost(poll_cost / scale)


@cache
def _peer_cost(peer: str, distribution: str, scale: float, poll_cost: float) -> float:
    jobs = _quantiles(distribution)
    at: list[float] = []
    for poll in accumulate(PEERS[peer]()):
        at.append(poll)
        if poll >= jobs[-1] * scale:
            break
    return _cost(at, jobs, scale, poll_cost)


@attrs.frozen
class Costs:
    """The costs of the scored jobs of one client: ours, the optimum's, and each peer's."""

    ours: Sequence[float]
    best: Sequence[float]
    peers: Mapping[str, Sequence[float]]


def run(name: str, poll_cost: float, eta: str, seed: int) -> Costs:
    """Watch a service with one client."""
    service, rng = SERVICES[name], random.Random(seed)
    jobs, quantile, eta_of = _quantiles(service.distribution), DISTRIBUTIONS[service.distribution], ETAS[eta]
    estimator = DurationEstimator(gaps_at(poll_cost))
    ours, best, peers = list[float](), list[float](), {peer: list[float]() for peer in PEERS}
    for number in range(-service.known, service.scored):
        job = service.stream(number, rng)
        workload = Workload((job.operation, "model"), job.frames / _NORMAL_FRAMES)
        forecast = JobForecast(estimator, workload, eta_of(job.scale * quantile(0.5), rng), rng)
        seconds = job.scale * quantile(rng.random())
        if number < -300:  # a short way to a long history
            forecast.learn(max(seconds - 3 * rng.random(), 0.0), seconds + 3 * rng.random())
            continue
        longest = jobs[-1] * job.scale if number >= 0 else 0.0
        at = poll_times(max(seconds, longest), forecast, rng)
        if number >= 0:
            ours.append(_cost(at, jobs, job.scale, poll_cost))
            best.append(_least_cost(service.distribution, job.scale, poll_cost))
            for peer, costs in peers.items():
                costs.append(_peer_cost(peer, service.distribution, job.scale, poll_cost))
        seen = bisect_left(at, seconds)
        forecast.learn(at[seen - 1] if seen else 0.0, at[seen])
    return Costs(ours, best, peers)


@attrs.frozen
class ServiceRow:
    """The figures of one service, poll cost and kind of eta, from the mean costs of all clients.

    mean: the cost of the scored jobs as a multiple of the optimum's. worst_ten: the highest such multiple of ten jobs
    in a row. settled: the multiple of the jobs after the first twenty. of_best_peer: the cost as a multiple of the best
    peer's for this row.
    """

    service: str
    poll_cost: float
    eta: str
    mean: float
    worst_ten: float
    settled: float
    best_peer: str
    of_best_peer: float

    @classmethod
    def of(cls, service: str, poll_cost: float, eta: str, runs: Sequence[Costs]) -> ServiceRow:
        """Return the row of these clients."""
        ours, best = _means(run.ours for run in runs), _means(run.best for run in runs)
        peers = {peer: fmean(_means(run.peers[peer] for run in runs)) for peer in PEERS}
        best_peer = min(peers, key=peers.__getitem__)
        tens = (sum(ours[job : job + 10]) / sum(best[job : job + 10]) for job in range(len(ours) - 9))
        settled = sum(ours[20:]) / sum(best[20:])
        mean = sum(ours) / sum(best)
        return cls(service, poll_cost, eta, mean, max(tens), settled, best_peer, fmean(ours) / peers[best_peer])


def _means(runs: Iterator[Sequence[float]] | Sequence[Sequence[float]]) -> list[float]:
    return [fmean(costs) for costs in zip(*runs, strict=True)]
