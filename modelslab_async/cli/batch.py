"""The commands `batch` and `cost`: make the videos of a manifest, and compute what they cost."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import click

from modelslab_async.batch import Batch, BatchEvent, BatchPlan, Entry, Step, open_batch, read_manifest
from modelslab_async.batch.naming import DEFAULT_NAME
from modelslab_async.batch.planner import plan_price
from modelslab_async.batch.results import counted, to_values
from modelslab_async.cli.display import BatchDisplay, format_duration
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.help import MONEY, REQUEST, SAVING, WAITING, Command, option
from modelslab_async.cli.output import Output, message_of, problem_line, problem_values
from modelslab_async.cli.parameters import parse_defaults
from modelslab_async.cli.report import print_report
from modelslab_async.cli.runner import client_options, handle_interrupts, limits_mode, open_client, run
from modelslab_async.cli.settings import JOBS, Settings, common_options, typed_words
from modelslab_async.client import Client
from modelslab_async.cluster import LOCAL
from modelslab_async.cluster import open_batch as open_on_cluster
from modelslab_async.engine.config import wrapped_key
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem
from modelslab_async.media.images import sniff
from modelslab_async.protocol.pricing import Budget


def _dollars(text: str) -> Decimal:
    with suppress(InvalidOperation):
        if (amount := Decimal(text)).is_finite() and amount >= 0:
            return amount
    raise click.BadParameter(f"{text}: must be an amount in dollars (hint: pass 20 or 1.50)")


_MANIFEST = click.argument("manifest", type=click.Path(path_type=Path, exists=True))
_PROMPT = option(
    "-p", "--prompt", group=REQUEST, metavar="TEXT", help="for lines without a prompt; a folder of pictures needs it"
)
_SET = option(
    "--set",
    "given",
    group=REQUEST,
    metavar="NAME=VALUE",
    multiple=True,
    callback=parse_defaults,
    help="a parameter for lines that do not set it",
)


@click.command(
    cls=Command,
    example='modelslab-async batch pictures/ -p "clouds pass" -o videos --budget 20',
)
@_MANIFEST
@option(
    "-o",
    "--output",
    "folder",
    group=SAVING,
    type=click.Path(path_type=Path),
    required=True,
    metavar="FOLDER",
    help="folder of the videos and results",
)
@_PROMPT
@_SET
@option(
    "--name", group=SAVING, metavar="PATTERN", default=DEFAULT_NAME, show_default=True, help="pattern of file names"
)
@option("--budget", group=MONEY, type=_dollars, metavar="USD", help="spend at most this amount")
@option("--check-wallet", group=MONEY, is_flag=True, help="first check that the wallet covers the cost")
@option("--yes", group=MONEY, is_flag=True, help="do not ask for confirmation")
@option("--verify", group=SAVING, is_flag=True, help="compare the digests of all finished videos")
@option("--retry-failed", group=MONEY, is_flag=True, help="submit again the lines that failed before")
@option("--resubmit-uncertain", group=MONEY, is_flag=True, help="submit again the lines that may be paid for")
@option(
    "--cluster",
    group=WAITING,
    metavar="ADDRESS",
    help="a Dask scheduler, tcp://HOST:8786, whose workers make the videos; local starts one here",
)
@option("--report", group=SAVING, is_flag=True, help="write FOLDER/report.html at the end")
@common_options("emulate", *JOBS, "limits")
def batch(settings: Settings, **options: Any) -> None:
    """Make the videos of a manifest.

    MANIFEST is JSON Lines, .csv, .tsv, or a folder of pictures. All lines and pictures are checked before anything is
    sent. Ctrl-C stops the batch once the running jobs have ended; a second Ctrl-C stops it at once. Run the same
    command again to continue.
    """
    run(settings.output, lambda: _batch(settings, **options))


async def _batch(
    settings: Settings,
    *,
    manifest: Path,
    folder: Path,
    prompt: str | None,
    given: Mapping[str, Any],
    budget: Decimal | None,
    check_wallet: bool,
    yes: bool,
    report: bool,
    cluster: str | None,
    **options: Any,
) -> Exit:
    output, defaults = settings.output, _defaults(manifest, prompt, given)

    def lines() -> Iterator[Entry]:
        return read_manifest(manifest, defaults)

    limit = None if budget is None else Budget(usd=budget)
    async with (
        open_client(settings, budget=limit) as client,
        _open(client, settings, folder, cluster, **options) as opened,
    ):
        plan = await opened.plan(lines(), check_wallet=check_wallet)
        _require_lines(plan, manifest)
        if not _confirm(output, plan, yes=yes or settings.emulate):
            return _code_of_problems(plan) if plan.problem_count else Exit.FAILED
        spending = "would be spent" if settings.emulate else "spent"
        confirmed = islice(lines(), plan.lines)  # lines that are added later were not confirmed
        code = await _run(client, opened, confirmed, BatchDisplay(output, plan.lines, spending))
    if report:
        try:
            print_report(output, folder, None)
        except InvalidRequestError as error:
            output.say(f"no report: {problem_line(error.problems[0])}")
    return code


def _open(
    client: Client, settings: Settings, folder: Path, cluster: str | None, **options: Any
) -> AbstractAsyncContextManager[Batch]:
    """Open the batch in this process, or on a cluster, whose workers make clients with the same settings."""
    options["emulator"] = settings.emulate
    if cluster is None:
        return open_batch(client, folder, **options)
    if cluster != LOCAL and "://" not in cluster:
        raise click.UsageError(f"--cluster {cluster}: must be an address (hint: pass tcp://HOST:8786, or {LOCAL})")
    settings_of_workers = client_options(settings)
    return open_on_cluster(
        client, folder, cluster=cluster, options=settings_of_workers, notify=settings.output.say, **options
    )


def _defaults(manifest: Path, prompt: str | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters for lines without them.

    Raises click.UsageError if pictures would have no prompt, and if the manifest is a picture.
    """
    defaults = {**({"prompt": prompt} if prompt else {}), **given}
    if manifest.is_file():
        with suppress(OSError), manifest.open("rb") as file:
            if sniff(file.read(64)):
                raise click.UsageError("a manifest cannot be a picture (hint: use generate, or pass the folder)")
    if manifest.is_dir() and "prompt" not in defaults:
        raise click.UsageError("a folder of pictures needs a prompt (hint: pass one for all with -p PROMPT)")
    return defaults


def _require_lines(plan: BatchPlan, manifest: Path) -> None:
    """Raise InvalidRequestError for a manifest without lines."""
    if not plan.lines:
        requirement, hint = ("must hold pictures", "pass another folder") if manifest.is_dir() else (
            "must hold lines", "pass another file"
        )  # fmt: skip
        raise InvalidRequestError([Problem("manifest", repr(str(manifest)), requirement, hint)])


def _confirm(output: Output, plan: BatchPlan, *, yes: bool) -> bool:
    """Print the plan, and return whether to run it. The user is asked if it costs money, unless *yes* is given.

    Raises click.UsageError if there is no terminal to ask at.
    """
    if output.as_json:
        values = attrs.asdict(plan, recurse=False)
        output.json({"event": "plan", **values, "problems": problem_values(plan.problems)})
    for problem in plan.problems:
        output.say(problem_line(problem), "red")
    if plan.problem_count:
        hidden = plan.problem_count - len(plan.problems)
        also = f", {hidden} of them not shown" if hidden else ""
        output.say(f"{counted(plan.problem_count, 'problem')}{also}: nothing was sent")
        return False
    counts = {"kept": plan.kept, "to collect": plan.collect, "uncertain": plan.uncertain, "failed before": plan.failed}
    also = "".join(f", {count} {name}" for name, count in counts.items() if count)
    videos = counted(plan.submit, "video")
    output.say(f"{counted(plan.lines, 'line')}: {videos} to make for {plan.cost}{also}")
    if yes or not plan.submit:
        return True
    if not can_ask():
        raise click.UsageError("cannot ask for confirmation without a terminal (hint: pass --yes)")
    is_confirmed = False
    try:
        is_confirmed = _ask(f"Spend {plan.cost}?")
    finally:
        if not is_confirmed:
            output.say("nothing was sent")
    return is_confirmed


def _code_of_problems(plan: BatchPlan) -> Exit:
    """Return the exit code of a plan that cannot be run: PAYMENT if only money is missing."""
    money = [problem for problem in plan.problems if problem.field in ("budget", "wallet")]
    return Exit.PAYMENT if len(money) == plan.problem_count else Exit.USAGE


def _ask(question: str) -> bool:
    """Ask at the terminal until the answer is yes or no. The end of the input is a no.

    Raises asyncio.CancelledError at Ctrl-C.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's handler would not end the question
    try:
        while True:
            click.echo(f"{question} [y/N]: ", nl=False, err=True)
            line = sys.stdin.readline()
            answer = line.strip().lower()
            if answer in ("y", "yes"):
                return True
            if answer in ("", "n", "no"):
                click.echo(nl=not line.endswith("\n"), err=True)
                return False
            click.echo("Please answer y or n.", err=True)
    except KeyboardInterrupt:
        click.echo(err=True)
        raise asyncio.CancelledError from None
    finally:
        signal.signal(signal.SIGINT, before)


def can_ask() -> bool:
    """Return whether the user can be asked at a terminal."""
    return sys.stdin.isatty() and sys.stderr.isatty()


async def _run(client: Client, opened: Batch, lines: Iterator[Entry], display: BatchDisplay) -> Exit:
    output, stop = display.output, asyncio.Event()

    def on_first_interrupt() -> None:
        stop.set()
        display.is_stopping = True
        output.say("stopping: waiting for the running jobs (hint: Ctrl-C again leaves them to the service)")

    failure: Exception | None = None
    try:
        async with handle_interrupts(on_first_interrupt):
            with display.shown():
                try:
                    async for event in opened.run(lines, stop=stop):
                        display.handle(event)
                        if output.as_json:
                            output.json(_event_values(event))
                except (ModelsLabError, OSError) as error:
                    failure = error
    except asyncio.CancelledError:
        await client.aclose(drain=False)
        stop.set()
    return _print_summary(display, failure, interrupted=stop.is_set() and failure is None)


def _print_summary(display: BatchDisplay, failure: Exception | None, *, interrupted: bool) -> Exit:
    """Print how the batch ended and how to continue. Return the exit code."""
    output, counts = display.output, display.counts
    display.count_running()
    made = counts["done"] + counts["kept"]
    if output.as_json:
        money = {"spent": display.spent, "may_have_been_spent": display.uncertain}
        output.json({"event": "summary", "lines": display.total, **counts, "running": len(display.jobs), **money})
    output.say(f"{display.status()}, {format_duration(asyncio.get_running_loop().time() - display.since)}")
    if failure:
        output.error(failure)
    if counts["failed"]:
        pays = "" if output.is_emulated else " and pays for them again"
        output.say(f"failed lines are left as they are (hint: --retry-failed submits them again{pays})")
    if counts["unsaved"] and not output.is_emulated:
        output.say("unsaved videos are paid for (hint: run the same command again, which saves them at no cost)")
    if counts["uncertain"] and not output.is_emulated:
        hint = "modelslab-async resolve REF, or --resubmit-uncertain, which may pay twice"
        output.say(f"uncertain lines are left as they are (hint: {hint})")
    if made + counts["failed"] + counts["uncertain"] < display.total:
        output.say(f"to continue: {shlex.join(['modelslab-async', *typed_words()])}")
    if failure:
        return code_of(failure)
    if interrupted and made < display.total:
        return Exit.INTERRUPTED
    return Exit.DONE if made == display.total else Exit.FAILED


def _event_values(event: BatchEvent) -> dict[str, Any]:
    """Return an event as JSON values."""
    values: dict[str, Any] = {"event": event.step.value, "line": event.entry.line, "item": event.entry.item}
    if event.job and event.step is Step.BEGUN:
        values["ref"] = event.job.ref
    if event.job and event.step is Step.DELAYED and (error := event.job.exception()):
        values["error"] = message_of(error)
    return {**values, **({"result": to_values(event.result)} if event.result else {})}


@click.command(cls=Command, example="modelslab-async cost shots.jsonl")
@_MANIFEST
@_PROMPT
@_SET
@common_options("enterprise", "limits")
def cost(settings: Settings, **options: Any) -> None:
    """Check a manifest, and print what it costs. Nothing is sent."""
    run(settings.output, lambda: _cost(settings, **options))


async def _cost(settings: Settings, *, manifest: Path, prompt: str | None, given: Mapping[str, Any]) -> Exit:
    output, defaults = settings.output, _defaults(manifest, prompt, given)
    usable = (key for key in output.keys if key.problem(is_any_length=False) is None)
    key = next(usable, wrapped_key("no key is needed"))
    async with Client(key, enterprise=settings.enterprise, limits=limits_mode(settings)) as client:
        plan, estimate = await plan_price(client, read_manifest(manifest, defaults))
    _require_lines(plan, manifest)
    for problem in plan.problems:
        output.say(problem_line(problem), "red")
    by_plan = {plan.name.lower(): count for plan, count in estimate.credits.items()}
    known = {"lines": plan.lines, "videos": plan.submit, "usd": estimate.usd, "credits": by_plan}
    known |= {"unpriced": plan.unpriced} if plan.unpriced else {}
    values = {**known, "problems": problem_values(plan.problems), "problem_count": plan.problem_count}
    by_plan_text = ", ".join(f"{counted(count, 'credit')} of the {name} plan" for name, count in by_plan.items())
    output.result(values, f"{counted(plan.submit, 'video')}: {plan.cost} ({by_plan_text})")
    return Exit.USAGE if plan.problem_count else Exit.DONE
