"""Measure the cost of detecting that a job ended. The baselines are published clients' schedules and an optimum.

    python -m benchmarks.waiting [--quick] [--json] [--check] [--plot FILE]       takes about 40 minutes on two CPUs

The cost is the mean latency from the end of a job to the poll that detects it, plus c seconds for each poll.

First without a service: a simulator drives the package's own polling flow and schedule, with four values of c and
several kinds of eta, for 20 clients each. Twelve services stand still; they have one distribution of the jobs' times.
Their first job is scored ("cold"), and jobs after 30 and 200 others. Other services have jobs of many sizes, or change.
The optimum is found by dynamic programming that knows the distribution and how the service changes, so no client can do
better. Then the clients run over HTTP against an emulator.

--quick simulates 3 clients and two values of c, in about 3 minutes. --plot draws FILE (SVG or PNG; needs the extra
`bench`).
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
from benchmarks._services import SERVICES, ServiceRow, run
from benchmarks._simulator import (
    DISTRIBUTIONS,
    ETAS,
    PEERS,
    PLOTTED,
    Case,
    Row,
    Score,
    lateness_after_delivery,
    optimum,
    poll_times,
    score_of_gaps,
    times,
)
from modelslab_async.polling.estimator import DurationEstimator, JobForecast
from modelslab_async.polling.schedule import gaps_at
from modelslab_async.polling.workload import Workload

POLL_COSTS, QUICK_POLL_COSTS = (0.5, 1.0, 2.0, 5.0), (1.0, 5.0)
SEEDS, QUICK_SEEDS = 20, 3
WARM = (30, 200)
WARM_ETAS = ("exact", "absent", "noisy")
"""Once a factor of the eta is learned, the other kinds are like the exact one."""
SERVICE_ETAS = ("exact", "absent", "noisy", "constant", "a tenth", "in ms")
EARLY = (0.1, 0.3, 1.0, 3.0)
"""Seconds by which a webhook's delivery comes before the service's own report of success."""
RUNS = 2
"""Simulated runs for each state of knowledge. They differ by their jitter."""
PLANS, PLAN_SECONDS = 9, 0.005

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


def cold(case: Case, eta: str, seeds: int) -> Score:
    """Return the score before any job ended, as the mean over the seeds."""
    return Score.mean([_SimulatedClient(case, eta, random.Random(seed)).score() for seed in range(seeds)])


def warm(case: Case, eta: str, seeds: int) -> list[Score]:
    """Return the score after each number of jobs in WARM, as the mean over the seeds."""
    scores = [list[Score]() for _ in WARM]
    for seed in range(seeds):
        client, watched = _SimulatedClient(case, eta, random.Random(seed)), 0
        for each, jobs in zip(scores, WARM, strict=True):
            client.watch(jobs - watched)
            each.append(client.score())
            watched = jobs
    return [Score.mean(each) for each in scores]


def serve(service: str, poll_cost: float, eta: str, seeds: int) -> ServiceRow:
    """Return the row of a service with jobs of many sizes, or that changes."""
    return ServiceRow.of(service, poll_cost, eta, [run(service, poll_cost, eta, seed) for seed in range(seeds)])


def seconds_per_plan() -> float:
    """Return the median time to learn anew from the jobs of a client, which remembers 128, and to plan the polls."""
    client, took = _SimulatedClient(("two peaks", 1.0), "noisy", random.Random(1)), list[float]()
    client.watch(200)
    [history] = client.estimator.histories.values()
    model = history.model
    while len(took) < PLANS:
        client.watch(1)
        begun = time.perf_counter()
        client.forecast().gap(0.0)
        if history.model is not model:
            took.append(time.perf_counter() - begun)
        model = history.model
    return median(took)


def after_early_delivery() -> dict[float, tuple[float, float]]:
    """Return the mean lateness and polls of jobs whose delivery comes too early, by how early it comes."""
    figures = dict[float, tuple[float, float]]()
    for early in EARLY:
        rng = random.Random(1)
        runs = [
            lateness_after_delivery(early, _SimulatedClient(("lognormal 0.25", 1.0), "exact", rng).forecast(), rng)
            for _ in range(SEEDS)
        ]
        figures[early] = fmean(late for late, _ in runs), fmean(polls for _, polls in runs)
    return figures


# --- the benchmark ---


COLD = tuple(f"cold, {eta}" for eta in ETAS if eta != "constant")
KNOWN = (*COLD, *(f"after {jobs}, {eta}" for eta in WARM_ETAS for jobs in WARM))


@attrs.frozen
class Simulated:
    """What was simulated: services that stand still, and services that change or whose jobs differ in size."""

    still: Sequence[Row]
    served: Sequence[ServiceRow]


def simulate(*, quick: bool) -> Simulated:
    """Simulate every case on all CPUs."""
    seeds, poll_costs = (QUICK_SEEDS, QUICK_POLL_COSTS) if quick else (SEEDS, POLL_COSTS)
    cases = list(product(DISTRIBUTIONS, poll_costs))
    with ProcessPoolExecutor() as pool:
        colds = [[pool.submit(cold, case, known.removeprefix("cold, "), seeds) for known in COLD] for case in cases]
        warms = [[pool.submit(warm, case, eta, seeds) for eta in WARM_ETAS] for case in cases]
        bests = [pool.submit(optimum, *case) for case in cases]
        served = [pool.submit(serve, *each, seeds) for each in product(SERVICES, poll_costs, SERVICE_ETAS)]
        rows = []
        for case, cold_scores, warm_scores, best in zip(cases, colds, warms, bests, strict=True):
            known = [score.result() for score in cold_scores]
            known += [score for scores in warm_scores for score in scores.result()]
            peers = {name: score_of_gaps(case[0], gaps()) for name, gaps in PEERS.items()}
            rows.append(Row(case, best.result(), dict(zip(KNOWN, known, strict=True)), peers))
            log(f"simulated: {case[0]}, c = {case[1]:g} s")
        service_rows = list[ServiceRow]()
        for each in served:
            row = each.result()
            if not service_rows or service_rows[-1].service != row.service:
                log(f"simulated: {row.service}")
            service_rows.append(row)
        return Simulated(rows, service_rows)


def targets_of(simulated: Simulated, plan: float, early: Mapping[float, tuple[float, float]]) -> list[Target]:
    """Return the targets. Each applies to the worst of all cases, which it names."""
    still, sizes = simulated.still, [row for row in simulated.served if not SERVICES[row.service].changes]
    changing = [row for row in simulated.served if SERVICES[row.service].changes]

    def worst_still(words: str, prefix: str, at_most: float, *, of_peer: bool = False) -> Target:
        found = [
            (row.of_best_peer(known) if of_peer else row.ratio(known), f"{row.case[0]}, c = {row.case[1]:g} s, {known}")
            for row, known in product(still, KNOWN)
            if known.startswith(prefix)
        ]
        return _worst(words, found, at_most)

    def worst(words: str, rows: Sequence[ServiceRow], figure: str, at_most: float) -> Target:
        found = [(getattr(row, figure), f"{row.service}, c = {row.poll_cost:g} s, {row.eta}") for row in rows]
        return _worst(words, found, at_most)

    return [
        worst_still("cost ÷ optimum, after 30 jobs", "after 30,", 1.3),
        worst_still("cost ÷ optimum, after 200 jobs", "after 200,", 1.15),
        worst_still("cost ÷ optimum, cold, exact eta", "cold, exact", 1.35),
        worst_still("cost ÷ optimum, cold, no eta", "cold, absent", 2.5),
        worst_still("cost ÷ optimum, cold, eta a tenth", "cold, a tenth", 2.5),
        worst_still("cost ÷ optimum, cold, eta in ms", "cold, in ms", 2.5),
        worst("cost ÷ optimum, mixed sizes, no eta", [row for row in sizes if row.eta == "absent"], "mean", 1.3),
        worst("cost ÷ optimum, mixed sizes, any eta", sizes, "mean", 1.3),
        worst("cost ÷ optimum, a service that changes", changing, "mean", 1.3),
        worst("the same, worst ten jobs in a row", changing, "worst_ten", 2.5),
        worst("the same, after the first 20 jobs", changing, "settled", 1.3),
        worst_still("cost ÷ best other client, after 30 jobs", "after 30,", 1.05, of_peer=True),
        worst_still("cost ÷ best other client, after 200 jobs", "after 200,", 1.05, of_peer=True),
        worst("cost ÷ best other client, mixed or changing", simulated.served, "of_best_peer", 1.05),
        Target("seconds late after a delivery 0.3 s too early", early[0.3][0], 1.0),
        Target("time to make a poll plan, ms", plan * 1e3, PLAN_SECONDS * 1e3),
    ]


def _worst(words: str, found: Sequence[tuple[float, str]], at_most: float) -> Target:
    """Return the target of the highest of these figures."""
    measured, where = max(found)
    return Target(f"{words} (worst: {where})", measured, at_most)


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


def by_service(rows: Sequence[ServiceRow]) -> str:
    """Return a table of services whose jobs differ in size, or that change."""
    head = ("cost ÷ optimum", "c", "eta", "mean", "worst ten", "after 20", "÷ best other", "its schedule")
    figures = [
        (
            row.service,
            f"{row.poll_cost:g} s",
            row.eta,
            *(f"{figure:.2f}" for figure in (row.mean, row.worst_ten, row.settled, row.of_best_peer)),
            row.best_peer,
        )
        for row in rows
    ]
    return table(head, figures)


def by_earliness(figures: Mapping[float, tuple[float, float]]) -> str:
    """Return a table of jobs whose delivery comes before the service's own report of success."""
    head = ("a delivery comes too early", "seconds late", "polls per job")
    return table(head, [(f"by {early:g} s", f"{late:.2f}", f"{polls:.1f}") for early, (late, polls) in figures.items()])


def by_contender(rows: Sequence[Row]) -> str:
    """Return a table of polls and latencies at c = 1 s, as means over the distributions that are drawn."""
    chosen = [row for row in rows if row.case[1] == 1.0 and row.case[0] in PLOTTED]
    scores = {
        "optimum, which knows the distribution": [row.best for row in chosen],
        **{f"modelslab_async, {known}": [row.ours[known] for row in chosen] for known in (*COLD[:1], *KNOWN[-6:-2])},
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
    options, quick, plot = _arguments()
    plan, early = seconds_per_plan(), after_early_delivery()
    simulated = simulate(quick=quick)
    measured = _live.measure(log)
    if "modelslab-py" not in measured:
        log(PEER_NOT_INSTALLED)
    if plot:
        from benchmarks._plot import draw  # noqa: PLC0415 - matplotlib is in the extra `bench`

        draw(simulated.still, plot)
    tables = by_case(simulated.still), by_service(simulated.served), by_contender(simulated.still)
    text = "\n\n".join((*tables, by_earliness(early), over_http(measured)))
    data = {
        "benchmark": "waiting",
        "cases": [attrs.asdict(row) for row in simulated.still],
        "services": [attrs.asdict(row) for row in simulated.served],
        "early_deliveries": [[early, *figures] for early, figures in early.items()],
        "http": {name: attrs.asdict(figures) for name, figures in measured.items()},
        "seconds_per_plan": plan,
    }
    return print_results(options, text, data, targets_of(simulated, plan, early))


def _arguments() -> tuple[Options, bool, str | None]:
    own = argparse.ArgumentParser(add_help=False)
    own.add_argument("--quick", action="store_true", help="simulate fewer clients and costs of a poll")
    own.add_argument("--plot", metavar="FILE", help="draw latency against polls into FILE (SVG or PNG)")
    options, args = parse_options(__doc__, own)
    return options, args.quick, args.plot


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
