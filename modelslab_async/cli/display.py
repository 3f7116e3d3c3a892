"""What happens, as it happens: drawn where stderr is a terminal, a line for each change where it is none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelslab_async.batch import BatchEvent, Step
from modelslab_async.batch.results import usd
from modelslab_async.cli.output import Output
from modelslab_async.job.future import Job
from modelslab_async.protocol.lifecycle import JobState

_A_SECOND = 4
_ROWS = 10
"""More rows cost more CPU than they tell."""
_BAR = 30
_TOLD_EVERY = 60.0
"""Seconds between two lines of how a batch stands, where nothing is drawn."""
_NOT_RUNNING = (JobState.WAITING, JobState.CANCELLED, JobState.REFUSED)


def length(seconds: float) -> str:
    """A time in words: 8 s, 3:05 min, 2:10 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    small, unit = (whole, "min") if whole < 3600 else (whole // 60, "h")
    return f"{small // 60}:{small % 60:02} {unit}"


async def follow(output: Output, job: Job) -> None:
    """Show a job until its end."""
    if not output.is_live:
        await _tell(output, job)
        return
    with _live(output, lambda: _row_of([job])):
        await job.wait()


async def _tell(output: Output, job: Job) -> None:
    before = None
    async for news in job.events():
        if news.state is not before:
            left = f", about {length(news.eta)} left" if news.eta else ""
            output.say(f"{length(news.elapsed):>8}  {news.state.value}{left}")
        before = news.state


def _row_of(jobs: list[Job]) -> Table:
    """A line for each job: state, how far, how long it takes, how long it will."""
    grid = Table.grid(padding=(0, 2))
    for job in jobs:
        elapsed, eta = job.elapsed, job.eta
        part = 0.0 if eta is None else elapsed / (elapsed + eta)
        left = "" if eta is None else f"about {length(eta)} left"
        bar = ProgressBar(total=1.0, completed=part, width=_BAR, pulse=eta is None and not job.done())
        what = job.redact(job.request.prompt)[:32] if job.request else job.ref
        grid.add_row(Text(job.state.value), bar, length(elapsed), left, Text(what, "dim", no_wrap=True))
    return grid


@attrs.define
class BatchDisplay:
    """The whole of a batch in a line, and the jobs that run below it."""

    output: Output
    total: int
    spending: str
    started_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    begun_at: float = attrs.field(factory=lambda: asyncio.get_running_loop().time())
    jobs: dict[str, Job] = attrs.field(factory=dict[str, Job])
    steps: Counter[str] = attrs.field(factory=Counter[str])
    spent: Decimal = Decimal(0)
    unsure: Decimal = Decimal(0)
    stopping: bool = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw it, if it can be drawn; else tell from time to time how it stands."""
        if not self.output.is_live:
            with _every(_TOLD_EVERY, lambda: self.output.say(self.line())):
                yield
            return
        with _live(self.output, self._drawn):
            yield

    def happened(self, event: BatchEvent) -> None:
        """Take an event; what ended is told in a line of its own."""
        item = event.entry.item
        if event.job and event.step is Step.BEGUN:
            self.jobs[item] = event.job
            return
        if event.job and event.step is Step.DELAYED:
            self.output.say(f"trying again for a while: {event.job.exception()}", "yellow")
            return
        job = self.jobs.pop(item, None)
        if job and event.step is Step.LEFT:
            self.let_go(job)
        result = event.result
        is_done = result is not None and result.file is not None
        self.steps["kept" if event.step is Step.KEPT else "done" if is_done else _how(event)] += 1
        if result and event.step is Step.ENDED:
            self._paid(result.charged, result.price, result.submitted_at)
            words = f"{result.file}" if is_done else f"{result.state.value}: {result.error}"
            self.output.say(f"line {result.line}: {words}", "" if is_done else "red")

    def let_go(self, job: Job) -> None:
        """It is not seen to its end here; what is known of its charge counts all the same."""
        if record := job.record:
            at = None if record.submitted_at is None else datetime.fromtimestamp(record.submitted_at, UTC)
            self._paid(record.charged, record.price, at)

    def _paid(self, charged: bool | None, price: Decimal, submitted_at: datetime | None) -> None:
        if submitted_at and submitted_at >= self.started_at:  # else an earlier run paid for it
            self.spent += price if charged else 0
            self.unsure += price if charged is None else 0

    def line(self) -> str:
        """How it stands, in a line."""
        running = len(self._running())
        steps = self.steps
        waiting = self.total - steps.total() - running
        told = [f"{steps['done'] + steps['kept']} of {self.total} done", f"{running} running", f"{waiting} waiting"]
        told += [f"{steps[name]} {name}" for name in ("failed", "unsaved", "uncertain", "left") if steps[name]]
        told += [f"{usd(self.spent)} {self.spending}", *([f"{usd(self.unsure)} unsure"] if self.unsure else [])]
        return ", ".join(told)

    def _left(self) -> str:
        ended = self.steps.total() - self.steps["kept"]
        if not ended or self.stopping:
            return ""
        elapsed = asyncio.get_running_loop().time() - self.begun_at
        return f"about {length(elapsed / ended * (self.total - self.steps.total()))} left"

    def _drawn(self) -> RenderableType:
        bar = ProgressBar(total=max(self.total, 1), completed=self.steps.total(), width=_BAR)
        head = Table.grid(padding=(0, 2))
        head.add_row(bar, Text(self._left(), "dim"))
        return Group(Text(self.line()), head, _row_of(self._running()[:_ROWS]))

    def _running(self) -> list[Job]:
        return [job for job in self.jobs.values() if job.state not in _NOT_RUNNING]


@contextmanager
def _live(output: Output, drawn: Callable[[], RenderableType]) -> Iterator[None]:
    """Drawn by the event loop, whose jobs it shows: not by a thread, as rich would."""
    with Live(get_renderable=drawn, console=output.err, auto_refresh=False, transient=True) as live:
        live.refresh()
        with _every(1 / _A_SECOND, live.refresh):
            yield


@contextmanager
def _every(seconds: float, do: Callable[[], object]) -> Iterator[None]:
    async def forever() -> None:
        while True:
            await asyncio.sleep(seconds)
            do()

    task = asyncio.create_task(forever())
    try:
        yield
    finally:
        task.cancel()


def _how(event: BatchEvent) -> str:
    match event.result.state if event.result else None:
        case None:
            return "left"
        case JobState.UNCERTAIN:
            return "uncertain"
        case JobState.READY | JobState.TIMED_OUT if event.step is Step.LEFT:
            return "uncertain"  # no row of the journal knows it any more
        case JobState.READY:
            return "unsaved"
        case JobState.TIMED_OUT if event.result and event.result.charged:
            return "unsaved"
        case _:
            return "failed"
