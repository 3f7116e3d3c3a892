"""Show the progress of jobs: a live display if stderr is a terminal, else a line for each change."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from urllib.parse import unquote, urlsplit

import attrs
from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from modelslab_async.batch import BatchEvent, Step
from modelslab_async.cli.output import Output
from modelslab_async.errors import usd
from modelslab_async.job.future import Job
from modelslab_async.media import inputs
from modelslab_async.media.images import is_data_uri
from modelslab_async.media.inputs import has_inputs
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.request import Request, is_http_url

_FRAMES_PER_SECOND = 4
_MAX_ROWS = 10
"""The most jobs that are drawn: more rows would cost CPU and show little."""
_BAR_WIDTH = 24
_TICK = 1.0
"""The most seconds between two events of the job that is followed."""
_STATUS_INTERVAL = 60.0
"""Seconds between two status lines of a batch without a live display."""
_NOT_RUNNING = (JobState.WAITING, JobState.CANCELLED, JobState.REFUSED)


def format_duration(seconds: float) -> str:
    """Return a duration as text: "8 s", "3:05 min", "2:10 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    small, unit = (whole, "min") if whole < 3600 else (whole // 60, "h")
    return f"{small // 60}:{small % 60:02} {unit}"


@attrs.frozen
class ShownJob:
    """A job on the display, and its label: the picture's name."""

    job: Job
    label: str


async def follow(output: Output, job: Job, label: str) -> None:
    """Show a job's progress until it ends."""
    if not output.is_live:
        await _print_states(output, job)
        return
    shown = ShownJob(job, label)
    with _live(output, lambda: _job_rows([shown])) as live:
        async for _ in job.events(every=_TICK):
            live.refresh()


async def _print_states(output: Output, job: Job) -> None:
    state = None
    async for event in job.events():
        if event.state is not state:
            remaining = f", about {format_duration(event.eta)} left" if event.eta else ""
            output.say(f"{format_duration(event.elapsed):>8}  {event.state.value}{remaining}")
        state = event.state


def _job_rows(jobs: Iterable[ShownJob]) -> Table:
    """Return a row for each job: its state, progress bar, elapsed and remaining time, and label."""
    grid = Table.grid(padding=(0, 2))
    for _ in range(4):
        grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    for shown in jobs:
        job, eta = shown.job, shown.job.eta
        remaining = "" if eta is None else f"about {format_duration(eta)} left"
        bar = ProgressBar(total=1.0, completed=job.progress, width=_BAR_WIDTH, pulse=eta is None and not job.done())
        state, label = Text(job.state.value), Text(shown.label, "cyan")
        grid.add_row(state, bar, format_duration(job.elapsed), remaining, label)
    return grid


def picture_name(image: object) -> str:
    """Return the name of a picture without its folders, from its path or URL. A picture in memory has no name."""
    where = os.fspath(image) if isinstance(image, os.PathLike) else image
    if not isinstance(where, str) or is_data_uri(where):
        return "picture"
    path = urlsplit(where).path if is_http_url(where) else where
    return unquote(path.replace("\\", "/").rstrip("/").rpartition("/")[2]) or where


def label_of(request: Request | None) -> str:
    """Return the name of a request's first file, or of its operation if the operation has no files."""
    if request and not has_inputs(request):
        return request.operation
    return picture_name(inputs.label_of(request))


@attrs.define
class BatchDisplay:
    """Show a batch's progress: a status line, and the jobs that run.

    total: the number of the batch's items.
    spending: the word for the money: "spent".
    started_at: the time from which charges count as this run's.
    jobs: the jobs that have begun, by item.
    counts: the number of ended items by outcome.
    spent, uncertain: the USD that this run spent, and may have spent.
    unpriced: the number of jobs that were, or may have been, charged an unknown price.
    is_stopping: whether the user asked the batch to stop.
    """

    output: Output
    total: int
    spending: str
    started_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))
    since: float = attrs.field(factory=lambda: asyncio.get_running_loop().time())
    jobs: dict[str, ShownJob] = attrs.field(factory=dict[str, ShownJob])
    counts: Counter[str] = attrs.field(factory=Counter[str])
    spent: Decimal = Decimal(0)
    uncertain: Decimal = Decimal(0)
    unpriced: int = 0
    is_stopping: bool = False

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Draw the display while the context is open; without a terminal, print a status line every minute."""
        if not self.output.is_live:
            with _every(_STATUS_INTERVAL, lambda: self.output.say(self.status())):
                yield
            return
        with _live(self.output, self._draw):
            yield

    def handle(self, event: BatchEvent) -> None:
        """Count an event. Print a line for each item that ended and for each outage."""
        item = event.entry.item
        if event.job and event.step is Step.BEGUN:
            self.jobs[item] = ShownJob(event.job, self._label(event))
            return
        if event.job and event.step is Step.DELAYED:
            self.output.say(f"submitting again during an outage: {event.job.exception()}", "yellow")
            return
        shown = self.jobs.pop(item, None)
        if shown and event.step is Step.LEFT:
            self._count_charge(shown.job)
        result = event.result
        is_done = result is not None and result.file is not None
        self.counts["kept" if event.step is Step.KEPT else "done" if is_done else _outcome(event)] += 1
        if result and event.step is Step.ENDED:
            self._count_money(result.charged, result.price, result.submitted_at)
            text = f"{result.file}" if is_done else f"{result.state.value}: {result.error}"
            self.output.say(f"line {result.line}: {text}", "" if is_done else "red")

    def _label(self, event: BatchEvent) -> str:
        """Return the name of an item's first file, and its line: several lines may have the same file."""
        name = label_of(event.entry.request)
        return str(self.output.redact(f"{name}, line {event.entry.line}"))

    def count_running(self) -> None:
        """Count the charges of the jobs that still run when the display ends."""
        for shown in self.jobs.values():
            self._count_charge(shown.job)

    def _count_charge(self, job: Job) -> None:
        """Count the known charge of a job whose end was not seen."""
        if record := job.record:
            at = None if record.submitted_at is None else datetime.fromtimestamp(record.submitted_at, UTC)
            self._count_money(record.charged, record.usd, at)

    def _count_money(self, charged: bool | None, price: Decimal | None, submitted_at: datetime | None) -> None:
        if submitted_at and submitted_at >= self.started_at:  # an earlier run paid for the others
            self.spent += (price or 0) if charged else 0
            self.uncertain += (price or 0) if charged is None else 0
            self.unpriced += price is None and charged is not False

    def status(self) -> str:
        """Return the batch's status in one line."""
        running = len(self._running())
        counts = self.counts
        waiting = self.total - counts.total() - running
        parts = [f"{counts['done'] + counts['kept']} of {self.total} done", f"{running} running", f"{waiting} waiting"]
        parts += [f"{counts[name]} {name}" for name in ("failed", "unsaved", "uncertain", "left") if counts[name]]
        parts += [f"{usd(self.spent)} {self.spending}"]
        parts += [f"{usd(self.uncertain)} uncertain"] if self.uncertain else []
        parts += [f"{self.unpriced} with an unknown price"] if self.unpriced else []
        return ", ".join(parts)

    def _remaining(self) -> str:
        ended = self.counts.total() - self.counts["kept"]
        if not ended or self.is_stopping:
            return ""
        elapsed = asyncio.get_running_loop().time() - self.since
        return f"about {format_duration(elapsed / ended * (self.total - self.counts.total()))} left"

    def _draw(self) -> RenderableType:
        bar = ProgressBar(total=max(self.total, 1), completed=self.counts.total(), width=_BAR_WIDTH)
        head = Table.grid(padding=(0, 2))
        head.add_row(bar, Text(self._remaining(), "dim"))
        return Group(Text(self.status()), head, _job_rows(self._running()[:_MAX_ROWS]))

    def _running(self) -> list[ShownJob]:
        return [shown for shown in self.jobs.values() if shown.job.state not in _NOT_RUNNING]


@contextmanager
def _live(output: Output, draw: Callable[[], RenderableType]) -> Iterator[Live]:
    """Draw the display from the event loop: rich's own thread would read jobs while they change."""
    with Live(get_renderable=draw, console=output.err, auto_refresh=False, transient=True) as live:
        live.refresh()
        with _every(1 / _FRAMES_PER_SECOND, live.refresh):
            yield live


@contextmanager
def _every(seconds: float, function: Callable[[], object]) -> Iterator[None]:
    """Call a function again and again while the context is open."""

    async def repeat() -> None:
        while True:
            await asyncio.sleep(seconds)
            function()

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()


def _outcome(event: BatchEvent) -> str:
    """Return the name under which an item without a video is counted."""
    match event.result.state if event.result else None:
        case None:
            return "left"
        case JobState.UNCERTAIN:
            return "uncertain"
        case JobState.READY | JobState.TIMED_OUT if event.step is Step.LEFT:
            return "uncertain"  # the journal no longer has its row
        case JobState.READY:
            return "unsaved"
        case JobState.TIMED_OUT if event.result and event.result.charged:
            return "unsaved"
        case _:
            return "failed"
