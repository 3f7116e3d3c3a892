"""The commands for jobs in the journal: `jobs`, `jobs prune`, `show`, `collect`, `recover` and `resolve`."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from modelslab_async.batch.files import save_as, values_of
from modelslab_async.batch.naming import DEFAULT_NAME, names, pattern_problem
from modelslab_async.batch.results import counted
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.help import DECISION, SAVING, SELECTION, Command, CommandGroup, WholeNumber, option
from modelslab_async.cli.output import plain_lines, problem_line, record_values
from modelslab_async.cli.runner import handle_interrupts, open_client, run
from modelslab_async.cli.settings import JOBS, JOURNAL, Settings, common_options
from modelslab_async.client import Client
from modelslab_async.errors import InvalidRequestError, ModelsLabError, NotFoundError, usd
from modelslab_async.job.future import Job
from modelslab_async.journal.pruning import archive_to
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.pricing import DAY
from modelslab_async.protocol.record import JobRecord

_SUFFIXES = (".mp4", ".gif")
"""With one of these, `-o` names a file."""
_MAX_SEARCHED = 10_000
"""The most rows, the newest first, that are searched for the beginning of a ref."""
_COLUMNS = ("ref", "id", "state", "since", "cost", "prompt")


@click.group(cls=CommandGroup, example="modelslab-async jobs --all --json", invoke_without_command=True)
@option("--all", "with_finished", group=SELECTION, is_flag=True, help="list finished and saved jobs too")
@option(
    "--limit",
    group=SELECTION,
    type=WholeNumber(1),
    metavar="N",
    default=100,
    show_default=True,
    help="read only the newest rows",
)
@common_options(*JOURNAL)
def jobs(settings: Settings, *, with_finished: bool, limit: int) -> None:
    """List the account's unfinished jobs in the journal."""
    if click.get_current_context().invoked_subcommand:
        return

    async def work() -> Exit:
        async with open_client(settings) as client:
            rows: Sequence[JobRecord] = await client.history(limit)
            if not with_finished and client.journal:
                unfinished = await client.journal.unfinished(client.account_id)
                abandoned = {row.ref for row, is_alive in unfinished if row.state is JobState.WAITING and not is_alive}
                open_refs = {row.ref for row, _ in unfinished} - abandoned
                rows = [row for row in rows if row.ref in open_refs]
        values = {"jobs": [record_values(row) for row in rows]}
        settings.output.table(values, _COLUMNS, [_cells(row) for row in rows], "no unfinished jobs")
        return Exit.DONE

    run(settings.output, work)


def _time_of(_: click.Context, __: click.Parameter, text: str) -> float:
    """Return a time in unix seconds: an age in days, such as 30d, or a date. A click callback."""
    if re.fullmatch(r"\d{1,5}d", text):
        return time.time() - int(text[:-1]) * DAY
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise click.BadParameter(f"{text}: must be an age in days or a date (hint: pass 30d or 2026-01-31)") from None


@jobs.command(cls=Command, example="modelslab-async jobs prune --before 90d --archive jobs.jsonl.gz")
@option(
    "--before",
    group=SELECTION,
    required=True,
    callback=_time_of,
    metavar="AGE|DATE",
    help="jobs that ended before this",
)
@option(
    "--archive",
    group=SAVING,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="append the jobs to this file: JSON Lines, gzip",
)
@option("--delete", group=SAVING, is_flag=True, help="keep no archive")
@common_options(*JOURNAL)
def prune(settings: Settings, *, before: float, archive: Path | None, delete: bool) -> None:
    """Remove jobs that are over from the journal, and shrink its file.

    A job is over if it failed or was not sent, or if its video was saved. Unfinished and uncertain jobs are kept.
    Budgets still count what the removed jobs cost. A ref that is removed can be submitted, and paid for, again.
    """
    if (archive is not None) == delete:
        raise click.UsageError("pass either --archive FILE or --delete")

    async def work() -> Exit:
        async with open_client(settings) as client:
            assert client.journal is not None  # noqa: S101 - the command's client has one
            keep = archive_to(archive) if archive else None
            count = await client.journal.prune(client.account_id, before=before, archive=keep)
        values = {"pruned": count, "archive": archive}
        settings.output.result(values, f"{counted(count, 'job')} removed from the journal")
        return Exit.DONE

    run(settings.output, work)


@click.command(cls=Command, example="modelslab-async show 3f2a9c")
@click.argument("ref")
@common_options(*JOURNAL)
def show(settings: Settings, ref: str) -> None:
    """Show the journal's row of the job with this ref or id."""

    async def work() -> Exit:
        async with open_client(settings) as client:
            values = record_values(await _find(client, ref))
        lines = [f"{name:24} {text}" for name, text in plain_lines(values)]
        settings.output.result(values, "\n".join(lines))
        return Exit.DONE

    run(settings.output, work)


@click.command(cls=Command, example="modelslab-async collect -o videos")
@click.argument("refs", nargs=-1)
@option(
    "-o",
    "--output",
    "target",
    group=SAVING,
    type=click.Path(path_type=Path),
    metavar="FOLDER|FILE",
    help="default: where the first run meant to save it",
)
@option(
    "--name",
    group=SAVING,
    metavar="PATTERN",
    default=DEFAULT_NAME,
    show_default=True,
    help="pattern of file names in a folder",
)
@common_options(*JOBS)
def collect(settings: Settings, refs: tuple[str, ...], target: Path | None, name: str) -> None:
    """Save the videos of paid jobs. Costs nothing.

    Waits for the jobs of REFS, or for all jobs that earlier runs left. A video is saved where the run that paid for it
    meant to save it: under the same -o, or in the folder of the batch.
    """
    if target and target.suffix in _SUFFIXES and len(refs) != 1:
        raise click.UsageError("-o FILE needs exactly one REF (hint: pass a folder)")
    if problem := pattern_problem(name):
        error = InvalidRequestError([problem])
        settings.output.hide_in(error)
        raise click.UsageError(problem_line(error.problems[0]))

    async def work() -> Exit:
        async with open_client(settings) as client, handle_interrupts():
            rows = [await _find(client, ref) for ref in refs]
            found = await client.recover([row.ref for row in rows] if refs else None)
            if not found.jobs:
                settings.output.say("nothing to collect")
            codes = await asyncio.gather(*(_collect(settings, job, target, name) for job in found.jobs))
            missing = [row for row in rows if row.ref not in {job.ref for job in found.jobs}]
            for row in missing:
                reason = "another process runs the job"
                if row in found.unsent:
                    reason = "the job was never sent, and is not charged"
                settings.output.say(f"{row.ref}: {row.state.value}: {row.error or reason}", "red")
        return Exit.FAILED if missing else next((code for code in codes if code), Exit.DONE)

    run(settings.output, work)


async def _collect(settings: Settings, job: Job, target: Path | None, name: str) -> Exit:
    try:
        saved = await _save(job, target or _target_of(job), name)
    except (ModelsLabError, OSError) as error:
        settings.output.error(error)
        return code_of(error)
    values = {"ref": job.ref, "job_id": job.id, "path": saved.path, "sha256": saved.sha256}
    settings.output.result(values, str(saved.path))
    return Exit.DONE


def _target_of(job: Job) -> Path:
    """Return where the first run meant to save the video: a file, or a folder. Without a note of it, this folder."""
    if not job.target:
        return Path()
    target = Path(job.target)
    return target.relative_to(Path.cwd()) if target.is_relative_to(Path.cwd()) else target


async def _save(job: Job, target: Path, name: str) -> SavedVideo:
    if target.suffix in _SUFFIXES:
        return await job.save(target, overwrite=False)
    await job
    return (await save_as(job, target, names(name, values_of(job, 1), job.result().container)))[1]


@click.command(cls=Command, example="modelslab-async recover --search")
@option("--search", group=SELECTION, is_flag=True, help="also list the account's videos that are not in the journal")
@common_options(*JOURNAL)
def recover(settings: Settings, *, search: bool) -> None:
    """List the jobs that dead processes left behind. Nothing is submitted or paid for."""

    async def work() -> Exit:
        async with open_client(settings) as client:
            found = await client.recover(search=search)
        # a server that runs may own an uncertain job for weeks, but only the user can resolve it
        doubted = [row for row in found.owned_elsewhere if row.state is JobState.UNCERTAIN]
        elsewhere = tuple(row for row in found.owned_elsewhere if row not in doubted)
        found = found._replace(uncertain=(*found.uncertain, *doubted), owned_elsewhere=elsewhere)
        groups = {"uncertain": found.uncertain, "unsent": found.unsent, "owned_elsewhere": found.owned_elsewhere}
        values: dict[str, Any] = {name: [record_values(row) for row in rows] for name, rows in groups.items()}
        values["jobs"] = [{"ref": job.ref, "job_id": job.id, "state": job.state} for job in found.jobs]
        values["candidates"] = [{"job_id": each.id, "links": each.links} for each in found.candidates]
        if settings.output.as_json:
            settings.output.json(values)
            return Exit.DONE
        say = settings.output.say
        counts = {
            f"paid for and not collected (hint: {settings.command('collect')} saves the videos)": len(found.jobs),
            "never sent, and not charged": len(found.unsent),
            "owned by another running process": len(found.owned_elsewhere),
            f"uncertain (hint: {settings.command('resolve')} REF with --id ID or --lost)": len(found.uncertain),
        }
        for text, count in counts.items():
            if count:
                say(f"{counted(count, 'job')} {text}")
        if not any(counts.values()):
            say("no jobs were left behind")
        if found.uncertain:
            settings.output.table({}, _COLUMNS, [_cells(row) for row in found.uncertain], "")
        if search:
            say(f"{counted(len(found.candidates), 'video')} of the account that the journal does not know")
        if found.candidates:
            settings.output.table({}, ("id", "link"), [(a.id, *a.links[:1]) for a in found.candidates], "")
        return Exit.DONE

    run(settings.output, work)


@click.command(cls=Command, example="modelslab-async resolve 3f2a9c --lost")
@click.argument("ref")
@option("--id", "job_id", group=DECISION, metavar="ID", help="the service accepted the job under this id")
@option("--lost", group=DECISION, is_flag=True, help="the service never accepted the job: it is not charged")
@common_options(*JOURNAL)
def resolve(settings: Settings, ref: str, job_id: str | None, *, lost: bool) -> None:
    """Resolve an uncertain job by hand. The service is asked only whether it knows the id."""
    if bool(job_id and job_id.strip()) == lost:
        raise click.UsageError("pass either --id ID or --lost")

    async def work() -> Exit:
        async with open_client(settings) as client:
            row = await _find(client, ref)
            if row.state is JobState.SUBMITTING:  # recover makes it UNCERTAIN if its client died
                await client.recover([row.ref])
            await client.resolve(row.ref, id=job_id, lost=lost)
        values = {"ref": row.ref, "job_id": job_id, "lost": lost}
        text = "lost, not charged" if lost else f"accepted (hint: {settings.command('collect', row.ref)} saves it)"
        settings.output.result(values, f"{row.ref}: {text}")
        return Exit.DONE

    run(settings.output, work)


async def _find(client: Client, ref: str) -> JobRecord:
    """Return the row with this ref, or id, or the only row whose ref begins with it. Raises NotFoundError."""
    if not ref.strip():
        raise click.UsageError("REF cannot be empty")
    if row := await client.find(ref):
        return row
    rows = [row for row in await client.history(_MAX_SEARCHED) if row.ref.startswith(ref)]
    if not rows:
        raise NotFoundError(f"the journal has no job {ref} of this account")
    if len(rows) > 1:
        raise NotFoundError(
            f"the journal has {len(rows)} jobs whose refs begin with {ref} (hint: pass more of the ref)"
        )
    return rows[0]


def _cells(row: JobRecord) -> tuple[str, ...]:
    since = datetime.fromtimestamp(row.submitted_at or row.created_at).astimezone()
    cost = {True: usd(row.usd), False: "-", None: f"{usd(row.usd)}?"}[row.charged]
    prompt = str((row.request or {}).get("prompt", ""))
    return row.ref, row.job_id or "", row.state.value, f"{since:%m-%d %H:%M:%S}", cost, prompt[:40]
