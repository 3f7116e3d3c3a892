"""`batch`, and what it costs, and the page about it."""

from __future__ import annotations

import asyncio
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import click

from modelslab_async.batch import Batch, BatchEvent, BatchPlan, Entry, Step, open_batch, read_manifest
from modelslab_async.batch.naming import DEFAULT_NAME
from modelslab_async.batch.planner import price
from modelslab_async.batch.results import to_told, usd
from modelslab_async.cli.display import BatchDisplay, length
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.output import Output, told_problems, words_of
from modelslab_async.cli.parameters import defaults
from modelslab_async.cli.runner import client_of, interrupts, limits_of, run
from modelslab_async.cli.settings import Settings, common
from modelslab_async.client import Client
from modelslab_async.engine.config import wrapped_key
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem
from modelslab_async.protocol.pricing import Budget


def _dollars(text: str) -> Decimal:
    with suppress(InvalidOperation):
        if (amount := Decimal(text)).is_finite() and amount >= 0:
            return amount
    raise click.BadParameter(f"{text!r} is no number of dollars, such as 20 or 1.50")


_MANIFEST = click.argument("manifest", type=click.Path(path_type=Path, exists=True))
_PROMPT = click.option("-p", "--prompt", help="for lines that have none; a folder of pictures needs one")
_SET = click.option(
    "--set", "given", metavar="NAME=VALUE", multiple=True, callback=defaults, help="a parameter for lines without it"
)


@click.command(epilog='Example: modelslab-async batch pictures/ -p "clouds pass" --set fps=12 -o videos --budget 20')
@_MANIFEST
@click.option("-o", "--output", "folder", type=click.Path(path_type=Path), required=True, metavar="FOLDER")
@_PROMPT
@_SET
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="of the files")
@click.option("--budget", type=_dollars, metavar="USD", help="spend no more than this")
@click.option("--check-wallet", is_flag=True, help="ask first whether the account can pay for it")
@click.option("--yes", is_flag=True, help="do not ask")
@click.option("--retry-failed", is_flag=True, help="submit what failed before again")
@click.option("--resubmit-uncertain", is_flag=True, help="submit again what may be paid for already")
@click.option("--report", is_flag=True, help="write FOLDER/report.html at the end")
@common
def batch(settings: Settings, **options: Any) -> None:
    """Turn the lines of MANIFEST (JSON Lines, .csv, .tsv, or a folder of pictures) into videos.

    Nothing is sent before all lines and pictures are checked. Ctrl-C once ends it when those that run are done, twice
    at once. Run it again, and it goes on where it was.
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
    **options: Any,
) -> Exit:
    output, for_all = settings.output, _for_all(manifest, prompt, given)

    def lines() -> Iterator[Entry]:
        return read_manifest(manifest, for_all)

    limit = None if budget is None else Budget(usd=budget)
    async with (
        client_of(settings, budget=limit) as client,
        open_batch(client, folder, emulator=settings.emulate, **options) as opened,
    ):
        plan = await opened.plan(lines(), check_wallet=check_wallet)
        _check_lines(plan, manifest)
        if not _agreed(output, plan, yes=yes or settings.emulate):
            return Exit.USAGE if plan.problem_count else Exit.FAILED
        spending = "would be spent" if settings.emulate else "spent"
        agreed = islice(lines(), plan.lines)  # what is added later was not asked about
        code = await _run(client, opened, agreed, BatchDisplay(output, plan.lines, spending))
    if report:
        try:
            _report(output, folder, None)
        except InvalidRequestError as error:
            output.say(f"no report: {error.problems[0].requirement}")
    return code


def _for_all(manifest: Path, prompt: str | None, given: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters for lines without them."""
    told = {**({"prompt": prompt} if prompt else {}), **given}
    if manifest.is_dir() and "prompt" not in told:
        raise click.UsageError("pictures of a folder have no prompt: pass one for all with -p PROMPT")
    return told


def _check_lines(plan: BatchPlan, manifest: Path) -> None:
    """Nobody means to make nothing."""
    if not plan.lines:
        what = "no pictures in it" if manifest.is_dir() else "no lines in it"
        raise InvalidRequestError([Problem("manifest", repr(str(manifest)), what, "is that the right one?")])


def _agreed(output: Output, plan: BatchPlan, *, yes: bool) -> bool:
    """Tell what will be done; ask, where there is something to pay and somebody to ask."""
    told = attrs.asdict(plan, recurse=False)
    if output.as_json:
        output.json({"event": "plan", **told, "problems": told_problems(plan.problems)})
    for problem in plan.problems:
        output.say(str(problem), "red")
    if plan.problem_count:
        more = plan.problem_count - len(plan.problems)
        output.say(f"{plan.problem_count} problems{f', {more} of them not shown' if more else ''}: nothing was sent")
        return False
    counts = {"kept": plan.kept, "to collect": plan.collect, "uncertain": plan.uncertain, "failed before": plan.failed}
    also = "".join(f", {count} {name}" for name, count in counts.items() if count)
    output.say(f"{plan.lines} lines: {plan.submit} videos to make for {usd(plan.usd)}{also}")
    if yes or not plan.submit:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise click.UsageError("nobody can be asked whether to pay that: pass --yes")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's would not end the question
    try:
        agreed = click.confirm(f"Spend {usd(plan.usd)}?", err=True)
    finally:
        signal.signal(signal.SIGINT, before)
    if not agreed:
        output.say("nothing was sent")
    return agreed


async def _run(client: Client, opened: Batch, lines: Iterator[Entry], display: BatchDisplay) -> Exit:
    output, stop = display.output, asyncio.Event()

    def first() -> None:
        stop.set()
        display.stopping = True
        output.say("stopping: waiting for those that run; Ctrl-C again leaves them to the service")

    trouble: Exception | None = None
    try:
        async with interrupts(first):
            with display.shown():
                try:
                    async for event in opened.run(lines, stop=stop):
                        display.happened(event)
                        if output.as_json:
                            output.json(_told(event))
                except (ModelsLabError, OSError) as error:
                    trouble = error
    except asyncio.CancelledError:
        await client.aclose(drain=False)
        stop.set()
    return _conclude(display, trouble, interrupted=stop.is_set() and trouble is None)


def _conclude(display: BatchDisplay, trouble: Exception | None, *, interrupted: bool) -> Exit:
    output = display.output
    for job in display.jobs.values():
        display.let_go(job)
    made = display.steps["done"] + display.steps["kept"]
    summary = {"event": "summary", "lines": display.total, **display.steps, "running": len(display.jobs)}
    if output.as_json:
        output.json({**summary, "spent": display.spent, "may_have_been_spent": display.unsure})
    output.say(f"{display.line()}, {length(asyncio.get_running_loop().time() - display.begun_at)}")
    if trouble:
        output.error(trouble)
    stuck = display.steps["failed"] + display.steps["uncertain"]
    if display.steps["failed"]:
        pays = "" if output.is_emulated else " and pays for it"
        output.say(f"what failed stays so; --retry-failed submits it again{pays}")
    if display.steps["unsaved"] and not output.is_emulated:
        output.say("what is unsaved is paid for: the same command fetches it, and pays nothing for it")
    if display.steps["uncertain"] and not output.is_emulated:
        output.say("what is uncertain stays so: modelslab-async resolve REF, or --resubmit-uncertain pays again")
    if made + stuck < display.total:
        output.say(f"to go on: {shlex.join(['modelslab-async', *sys.argv[1:]])}")
    if trouble:
        return code_of(trouble)
    if interrupted and made < display.total:
        return Exit.INTERRUPTED
    return Exit.DONE if made == display.total else Exit.FAILED


def _told(event: BatchEvent) -> dict[str, Any]:
    told: dict[str, Any] = {"event": event.step.value, "line": event.entry.line, "item": event.entry.item}
    if event.job and event.step is Step.BEGUN:
        told["ref"] = event.job.ref
    if event.job and event.step is Step.DELAYED:
        told["error"] = words_of(event.job.error or asyncio.CancelledError())
    return {**told, **({"result": to_told(event.result)} if event.result else {})}


@click.command(epilog="Example: modelslab-async cost shots.jsonl")
@_MANIFEST
@_PROMPT
@_SET
@common
def cost(settings: Settings, **options: Any) -> None:
    """What the lines of MANIFEST would cost, and what is wrong with them. Nothing is sent."""
    run(settings.output, lambda: _cost(settings, **options))


async def _cost(settings: Settings, *, manifest: Path, prompt: str | None, given: Mapping[str, Any]) -> Exit:
    output, for_all = settings.output, _for_all(manifest, prompt, given)
    usable = (key for key in output.keys if key.problem(is_any_length=False) is None)
    key = next(usable, wrapped_key("no key is needed"))
    async with Client(key, enterprise=settings.enterprise, limits=limits_of(settings)) as client:
        plan = await price(client, read_manifest(manifest, for_all))
        estimate = client.prices.estimate(plan.submit)
    _check_lines(plan, manifest)
    for problem in plan.problems:
        output.say(str(problem), "red")
    by_plan = {plan.name.lower(): count for plan, count in estimate.credits.items()}
    known = {"lines": plan.lines, "videos": plan.submit, "usd": estimate.usd, "credits": by_plan}
    told = {**known, "problems": told_problems(plan.problems), "problem_count": plan.problem_count}
    words = ", ".join(f"{count} credits of the {name} plan" for name, count in by_plan.items())
    output.result(told, f"{plan.submit} videos: {usd(estimate.usd)} ({words})")
    return Exit.USAGE if plan.problem_count else Exit.DONE


@click.command(epilog="Example: modelslab-async report videos")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "-o", "--output", "to", type=click.Path(path_type=Path), metavar="FILE", help="FOLDER/report.html unless told"
)
@common
def report(settings: Settings, folder: Path, to: Path | None) -> None:
    """Write a page about a batch: its videos, what failed, who ran when, what it cost."""

    async def write() -> Exit:
        _report(settings.output, folder, to)
        return Exit.DONE

    run(settings.output, write)


def _report(output: Output, folder: Path, to: Path | None) -> None:
    from modelslab_async.batch.report import write_report  # noqa: PLC0415 - only for those who ask

    if to and to.is_file():
        with to.open("rb") as there:
            is_page = there.read(14).lower() == b"<!doctype html"
        if not is_page:
            requirement, hint = "a file that is no report is there", "choose another, or remove it first"
            raise InvalidRequestError([Problem("output", repr(str(to)), requirement, hint)])
    path = write_report(folder, to=to)
    output.result({"event": "report", "path": path}, str(path))
