"""Measure the cost of detecting that a job ended. The baselines are published clients' schedules and an optimum.

    python -m benchmarks.waiting [--json] [--check] [--plot FILE]       takes about a minute on two CPUs

The cost is the mean latency from the end of a job to the poll that detects it, plus c seconds for each poll.

First without a service: a simulator drives the package's own polling flow and schedule. It covers five distributions
of the jobs' times, four values of c, and etas that are exact, absent, noisy or off by a factor of ten. It covers the
first job of a client ("cold"), and jobs after 30 and 200 others. The optimum is found by dynamic programming that knows
the distribution, so no client can do better. Then the clients run over HTTP against an emulator.

--plot draws FILE (SVG or PNG; needs the extra `bench`).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from statistics import fmean, median

import attrs

from benchmarks import _live
from benchmarks._common import PEER_NOT_INSTALLED, Options, Target, log, parse_options, print_results, table
from benchmarks._simulator import (
    DISTRIBUTIONS,
    ETAS,
    PEERS,
    Case,
    Row,
    Score,
    optimum,
    poll_times,
    score_of_gaps,
    times,
)
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.schedule import gaps_at
from modelslab_async.polling.workload import Workload

POLL_COSTS = (0.5, 1.0, 2.0, 5.0)
SEEDS = 20
WARM = (30, 200)
RUNS = 2
"""Simulated runs for each state of knowledge. They differ by their jitter."""
PLAN_SECONDS = 0.005

CLIENTS: Mapping[str, str] = {
    "0.1 s": "fal-client 1.0",
    "0.5 s": "replicate 1.0",
    "1 s": "openai 3.54, videos",
    "2 s": "@ai-sdk/replicate 2.0",
    "5 s": "@ai-sdk/alibaba 1.0",
    "10 s": "google-genai 3.4, sample",
    "60 s": "modelslab-py 0.2",
    "1, 2, 4, 8, 10 s": "Conduit GatewayClient",
    "0.5·1.5ⁿ to 5 s": "agentpassport_adapters",
    "4.5 to 7.5 s": "runwayml 5.24",
}
"""The client that publishes each schedule as its default, read in the sources in November 2026."""

CASES: Sequence[Case] = tuple(product(DISTRIBUTIONS, POLL_COSTS))


# --- our schedule ---


@attrs.define
class _SimulatedClient:
    """A client that watches jobs of one kind, one after the other."""

    case: Case
    eta: str
    rng: random.Random
    estimator: DurationEstimator = attrs.field(init=False)
    made: int = 0
    slowest_plan: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.estimator = DurationEstimator(gaps_at(self.case[1]))

    def forecast(self) -> JobForecast:
        eta = ETAS[self.eta](median(times(self.case[0])), self.rng)
        return JobForecast(self.estimator, Workload(), eta, self.rng)

    def watch(self, jobs: int) -> None:
        for _ in range(jobs):
            forecast, seconds = self.forecast(), DISTRIBUTIONS[self.case[0]](self.rng.random())
            at = poll_times(seconds, forecast, self.rng)
            forecast.learn(at[-2] if len(at) > 1 else 0.0, at[-1])

    def score(self) -> Score:
        """Return the score of jobs that are watched now. The client learns nothing from them."""
        jobs = times(self.case[0])
        return Score.mean([Score.of(poll_times(jobs[-1], self.forecast(), self.rng), jobs) for _ in range(RUNS)])


def cold(case: Case, eta: str) -> Score:
    """Return the score before any job ended, as the mean over the seeds."""
    return Score.mean([_SimulatedClient(case, eta, random.Random(seed)).score() for seed in range(SEEDS)])


def warm(case: Case, seed: int) -> list[Score]:
    """Return the score after each number of jobs in WARM. The kinds of eta alternate with the seed."""
    client = _SimulatedClient(case, list(ETAS)[seed % len(ETAS)], random.Random(seed))
    scores, watched = [], 0
    for jobs in WARM:
        client.watch(jobs - watched)
        scores.append(client.score())
        watched = jobs
    return scores


def seconds_per_plan() -> float:
    """Return the median time to make a new plan from 256 jobs, which is as many as the client remembers."""
    client, took = _SimulatedClient(("two peaks", 1.0), "exact", random.Random(1)), []
    client.watch(256)
    for _ in range(20):
        client.estimator.forget_plans()
        begun = time.perf_counter()
        client.forecast().gap(0.0)
        took.append(time.perf_counter() - begun)
    return median(took)


# --- the benchmark ---


COLD = tuple(f"cold, {eta}" for eta in ETAS)
KNOWN = (*COLD, *(f"after {jobs}" for jobs in WARM))


def simulate() -> list[Row]:
    """Simulate every case on all CPUs."""
    with ProcessPoolExecutor() as pool:
        colds = [[pool.submit(cold, case, eta) for eta in ETAS] for case in CASES]
        warms = [[pool.submit(warm, case, seed) for seed in range(SEEDS)] for case in CASES]
        bests = [pool.submit(optimum, *case) for case in CASES]
        rows = []
        for case, cold_scores, clients, best in zip(CASES, colds, warms, bests, strict=True):
            known = [score.result() for score in cold_scores]
            known += [Score.mean(scores) for scores in zip(*(each.result() for each in clients), strict=True)]
            peers = {name: score_of_gaps(case[0], gaps()) for name, gaps in PEERS.items()}
            rows.append(Row(case, best.result(), dict(zip(KNOWN, known, strict=True)), peers))
            log(f"simulated: {case[0]}, c = {case[1]:g} s")
    return rows


def targets_of(rows: Sequence[Row], plan: float) -> list[Target]:
    """Return the targets. Each applies to the worst of all cases."""

    def worst(known: str) -> float:
        return max(row.ratio(known) for row in rows)

    wrong = max(worst(f"cold, {eta}") for eta in ("absent", "a tenth", "tenfold"))
    return [
        Target("worst cost ÷ optimum, after 30 jobs", worst("after 30"), 1.15),
        Target("worst cost ÷ optimum, after 200 jobs", worst("after 200"), 1.08),
        Target("worst cost ÷ optimum, cold, exact eta", worst("cold, exact"), 1.35),
        Target("worst cost ÷ optimum, cold, noisy eta", worst("cold, noisy"), 2.0),
        Target("worst cost ÷ optimum, cold, eta absent or off by a factor of ten", wrong, 2.0),
        Target("worst cost ÷ best other client, after 30 jobs", max(row.of_best_peer("after 30") for row in rows), 1.0),
        Target(
            "worst cost ÷ best other client, after 200 jobs", max(row.of_best_peer("after 200") for row in rows), 1.0
        ),
        Target("time to make a poll plan, ms", plan * 1e3, PLAN_SECONDS * 1e3),
    ]


def by_case(rows: Sequence[Row]) -> str:
    """Return a table of the costs in each case, as multiples of the optimum."""
    head = ("cost ÷ optimum", "c", "optimum", *KNOWN, "best other", "its schedule")
    figures = []
    for row in rows:
        name, poll_cost = row.case
        best, peer = row.best.cost(poll_cost), row.peers[row.best_peer].cost(poll_cost)
        ratios = (f"{ratio:.2f}" for ratio in (*map(row.ratio, KNOWN), peer / best))
        figures.append((name, f"{poll_cost:g} s", f"{best:.2f} s", *ratios, row.best_peer))
    return table(head, figures)


def by_contender(rows: Sequence[Row]) -> str:
    """Return a table of polls and latencies at c = 1 s, as means over the distributions."""
    chosen = [row for row in rows if row.case[1] == 1.0]
    scores = {
        "optimum, which knows the distribution": [row.best for row in chosen],
        **{f"modelslab_async, {known}": [row.ours[known] for row in chosen] for known in (*COLD[:1], *KNOWN[-2:])},
        **{f"{name} ({CLIENTS[name]})": [row.peers[name] for row in chosen] for name in PEERS},
    }
    figures = []
    for name, each in scores.items():
        cost = fmean(score.cost(1.0) / row.best.cost(1.0) for score, row in zip(each, chosen, strict=True))
        mean = Score.mean(each)
        figures.append((name, *(f"{figure:.1f}" for figure in attrs.astuple(mean)), f"{cost:.2f}"))
    head = ("c = 1 s, mean of the distributions", "polls", "latency, s", "p50", "p95", "p99", "cost ÷ optimum")
    return table(head, figures)


def over_http(measured: Mapping[str, _live.Measured]) -> str:
    """Return a table of what was measured at the emulator."""
    head = (f"over HTTP, {_live.JOBS} jobs", "requests/job", "latency, s", "highest, s")
    figures = [(n, f"{s.requests_per_job:.2f}", f"{s.latency:.2f}", f"{s.highest:.2f}") for n, s in measured.items()]
    notes = (
        f"The emulator runs in another process. It and all clients' clocks run {_live.SPEED:g} times as fast; times "
        "are seconds of the service.\nmodelslab_async also reads the first bytes of each file, which is one request; "
        "the others do not."
    )
    return f"{table(head, figures)}\n{notes}"


def main() -> int:
    """Simulate, measure and print the figures. Return the exit code."""
    options, plot = _arguments()
    plan = seconds_per_plan()
    rows = simulate()
    measured = _live.measure(log)
    if "modelslab-py" not in measured:
        log(PEER_NOT_INSTALLED)
    if plot:
        from benchmarks._plot import draw  # noqa: PLC0415 - matplotlib is in the extra `bench`

        draw(rows, plot)
    text = "\n\n".join((by_case(rows), by_contender(rows), over_http(measured)))
    data = {
        "benchmark": "waiting",
        "cases": [attrs.asdict(row) for row in rows],
        "http": {name: attrs.asdict(figures) for name, figures in measured.items()},
        "seconds_per_plan": plan,
    }
    return print_results(options, text, data, targets_of(rows, plan))


def _arguments() -> tuple[Options, str | None]:
    plots = argparse.ArgumentParser(add_help=False)
    plots.add_argument("--plot", metavar="FILE", help="draw latency against polls into FILE (SVG or PNG)")
    options, args = parse_options(__doc__, plots)
    return options, args.plot


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
