"""Waiting: what it costs to see that a job ended, beside the schedules of published clients and the best there is.

    python -m benchmarks.waiting [--json] [--check] [--plot FILE]

Cost is the mean latency from the end of a job to the look that sees it, plus c seconds for each look. First without a
service: the package's own `watch` and `schedule`, driven by a simulator, for five distributions of the true time, four
values of c, and etas that are right, absent, noisy or ten times off; cold, and after 30 and 200 jobs that were watched
one after the other. The optimum is found by dynamic programming that knows the distribution: no client can beat it.
Then over HTTP against an emulator. Takes about a minute on two CPUs. --plot draws FILE (SVG or PNG; extra bench).
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
from benchmarks._common import NOT_INSTALLED, Options, Reach, conclude, options, say, table
from benchmarks._simulator import DISTRIBUTIONS, ETAS, PEERS, Case, Row, Score, looks, optimum, score_of_gaps, times
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.schedule import gaps_at

POLL_COSTS = (0.5, 1.0, 2.0, 5.0)
SEEDS = 20
WARM = (30, 200)
RUNS = 2
"""Watches of each state of knowledge: they differ by their jitter."""
SHAPE = (81, 480)
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
"""Who publishes which schedule, as its default; read in their sources in November 2026."""

CASES: Sequence[Case] = tuple(product(DISTRIBUTIONS, POLL_COSTS))


# --- our schedule ---


@attrs.define
class _Life:
    """A client's life: jobs of one kind, one after the other."""

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
        return JobForecast(self.estimator, SHAPE, eta, self.rng)

    def live(self, jobs: int) -> None:
        for _ in range(jobs):
            forecast, seconds = self.forecast(), DISTRIBUTIONS[self.case[0]](self.rng.random())
            at = looks(seconds, forecast, self.rng)
            forecast.learn(at[-2] if len(at) > 1 else 0.0, at[-1])

    def score(self) -> Score:
        """Of jobs that are watched now; nothing is learned from them."""
        jobs = times(self.case[0])
        return Score.mean([Score.of(looks(jobs[-1], self.forecast(), self.rng), jobs) for _ in range(RUNS)])


def cold(case: Case, eta: str) -> Score:
    """Before any job ended, mean over the seeds."""
    return Score.mean([_Life(case, eta, random.Random(seed)).score() for seed in range(SEEDS)])


def warm(case: Case, seed: int) -> list[Score]:
    """After each number of jobs in WARM. The seeds take the kinds of eta in turn."""
    life = _Life(case, list(ETAS)[seed % len(ETAS)], random.Random(seed))
    scores, known = [], 0
    for jobs in WARM:
        life.live(jobs - known)
        scores.append(life.score())
        known = jobs
    return scores


def seconds_per_plan() -> float:
    """The time to make a plan anew, median: 256 jobs are known, as many as are remembered."""
    life, took = _Life(("two peaks", 1.0), "exact", random.Random(1)), []
    life.live(256)
    for _ in range(20):
        life.estimator.forget_plans()
        begun = time.perf_counter()
        life.forecast().gap(0.0)
        took.append(time.perf_counter() - begun)
    return median(took)


# --- all of it ---


COLD = tuple(f"cold, {eta}" for eta in ETAS)
KNOWN = (*COLD, *(f"after {jobs}" for jobs in WARM))


def simulate() -> list[Row]:
    """Every case, on all CPUs."""
    with ProcessPoolExecutor() as pool:
        colds = [[pool.submit(cold, case, eta) for eta in ETAS] for case in CASES]
        warms = [[pool.submit(warm, case, seed) for seed in range(SEEDS)] for case in CASES]
        bests = [pool.submit(optimum, *case) for case in CASES]
        rows = []
        for case, cold_scores, lives, best in zip(CASES, colds, warms, bests, strict=True):
            known = [score.result() for score in cold_scores]
            known += [Score.mean(scores) for scores in zip(*(life.result() for life in lives), strict=True)]
            peers = {name: score_of_gaps(case[0], gaps()) for name, gaps in PEERS.items()}
            rows.append(Row(case, best.result(), dict(zip(KNOWN, known, strict=True)), peers))
            say(f"simulated: {case[0]}, c = {case[1]:g} s")
    return rows


def reaches_of(rows: Sequence[Row], plan: float) -> list[Reach]:
    """What was promised: the worst of all cases."""

    def worst(known: str) -> float:
        return max(row.ratio(known) for row in rows)

    wrong = max(worst(f"cold, {eta}") for eta in ("absent", "a tenth", "tenfold"))
    return [
        Reach("worst cost of the optimum's, after 30 jobs", worst("after 30"), 1.15),
        Reach("worst cost of the optimum's, after 200 jobs", worst("after 200"), 1.08),
        Reach("worst cost of the optimum's, cold, exact eta", worst("cold, exact"), 1.35),
        Reach("worst cost of the optimum's, cold, noisy eta", worst("cold, noisy"), 2.0),
        Reach("worst cost of the optimum's, cold, eta absent or ten times off", wrong, 2.0),
        Reach("worst cost of the best peer's, after 30 jobs", max(row.of_best_peer("after 30") for row in rows), 1.0),
        Reach("worst cost of the best peer's, after 200 jobs", max(row.of_best_peer("after 200") for row in rows), 1.0),
        Reach("milliseconds to make a plan", plan * 1e3, PLAN_SECONDS * 1e3),
    ]


def by_case(rows: Sequence[Row]) -> str:
    """Costs in each case, as ratios to the optimum's."""
    head = ("cost / optimum's", "c", "optimum", *KNOWN, "best peer", "")
    figures = []
    for row in rows:
        name, poll_cost = row.case
        best, peer = row.best.cost(poll_cost), row.peers[row.best_peer].cost(poll_cost)
        ratios = (f"{ratio:.2f}" for ratio in (*map(row.ratio, KNOWN), peer / best))
        figures.append((name, f"{poll_cost:g} s", f"{best:.2f} s", *ratios, row.best_peer))
    return table(head, figures)


def by_contender(rows: Sequence[Row]) -> str:
    """Looks and latencies at c = 1 s, means over the distributions."""
    chosen = [row for row in rows if row.case[1] == 1.0]
    scores = {
        "optimum, knows the distribution": [row.best for row in chosen],
        **{f"modelslab_async, {known}": [row.ours[known] for row in chosen] for known in (*COLD[:1], *KNOWN[-2:])},
        **{f"{name} ({CLIENTS[name]})": [row.peers[name] for row in chosen] for name in PEERS},
    }
    figures = []
    for name, each in scores.items():
        cost = fmean(score.cost(1.0) / row.best.cost(1.0) for score, row in zip(each, chosen, strict=True))
        mean = Score.mean(each)
        figures.append((name, *(f"{figure:.1f}" for figure in attrs.astuple(mean)), f"{cost:.2f}"))
    head = ("c = 1 s, mean of the distributions", "looks", "latency, s", "p50", "p95", "p99", "cost / optimum's")
    return table(head, figures)


def over_http(seen: Mapping[str, _live.Seen]) -> str:
    """What was seen at the emulator."""
    head = (f"over HTTP, {_live.JOBS} jobs", "requests/job", "latency, s", "longest, s")
    figures = [(n, f"{s.requests_per_job:.2f}", f"{s.latency:.2f}", f"{s.longest:.2f}") for n, s in seen.items()]
    notes = (
        f"an emulator in another process, {_live.SPEED:g} times as fast, as are the contenders' clocks; seconds of the "
        "service.\nOurs also reads the first bytes of each file, which is one request; the others do not."
    )
    return f"{table(head, figures)}\n{notes}"


def main() -> int:
    """Simulate, measure, and print the figures."""
    wanted, plot = _arguments()
    plan = seconds_per_plan()
    rows = simulate()
    seen = _live.measure(say)
    if "modelslab-py" not in seen:
        say(NOT_INSTALLED)
    if plot:
        from benchmarks._plot import draw  # noqa: PLC0415 - matplotlib is in the extra

        draw(rows, plot)
    text = "\n\n".join((by_case(rows), by_contender(rows), over_http(seen)))
    told = {
        "benchmark": "waiting",
        "cases": [attrs.asdict(row) for row in rows],
        "http": {name: attrs.asdict(figures) for name, figures in seen.items()},
        "seconds_per_plan": plan,
    }
    return conclude(wanted, text, told, reaches_of(rows, plan))


def _arguments() -> tuple[Options, str | None]:
    plots = argparse.ArgumentParser(add_help=False)
    plots.add_argument("--plot", metavar="FILE", help="draw latency against looks (SVG or PNG)")
    wanted, given = options(__doc__, plots)
    return wanted, given.plot


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
