"""What the journal knows: `jobs`, `show`, `collect`, `recover`, `resolve`."""

from __future__ import annotations

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from modelslab_async.batch.files import save_as, values_of
from modelslab_async.batch.naming import DEFAULT_NAME, names, pattern_problem
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.output import told_of
from modelslab_async.cli.runner import client_of, interrupts, run
from modelslab_async.cli.settings import Settings, common
from modelslab_async.client import Client
from modelslab_async.errors import InvalidRequestError, ModelsLabError, NotFoundError
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import UNFINISHED, JobRecord

_SEARCHED = 10_000
"""Rows, the newest first, that are searched for a ref of which only the beginning is told."""
_HEAD = ("ref", "id", "state", "since", "cost", "prompt")


@click.command(epilog="Example: modelslab-async jobs --all --json")
@click.option("--all", "everything", is_flag=True, help="also those that need no care any more")
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="the newest so many")
@common
def jobs(settings: Settings, *, everything: bool, limit: int) -> None:
    """The jobs of this account that the journal knows."""

    async def work() -> Exit:
        async with client_of(settings) as client:
            rows = [row for row in await client.history(limit) if everything or _needs_care(client, row)]
        told = {"jobs": [told_of(row) for row in rows]}
        settings.output.table(told, _HEAD, [_cells(row) for row in rows], "no jobs that need care")
        return Exit.DONE

    run(settings.output, work)


@click.command(epilog="Example: modelslab-async show 3f2a9c")
@click.argument("ref")
@common
def show(settings: Settings, ref: str) -> None:
    """All that the journal knows of the job with this ref, or id."""

    async def work() -> Exit:
        async with client_of(settings) as client:
            told = told_of(await _found(client, ref))
        words = [f"{name:13} {value}" for name, value in told.items() if value not in (None, ())]
        settings.output.result(told, "\n".join(words))
        return Exit.DONE

    run(settings.output, work)


@click.command(epilog="Example: modelslab-async collect -o videos")
@click.argument("refs", nargs=-1)
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), default=Path(), metavar="FOLDER|FILE")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="of the files in a folder")
@common
def collect(settings: Settings, refs: tuple[str, ...], target: Path, name: str) -> None:
    """Wait for the videos that are paid for and save them: of these jobs, or of all that were left. Costs nothing."""
    if target.suffix == ".mp4" and len(refs) != 1:
        raise click.UsageError("-o FILE is for one REF; pass a folder")
    if problem := pattern_problem(name):
        error = InvalidRequestError([problem])
        settings.output.hide_in(error)
        raise click.UsageError(str(error.problems[0]))

    async def work() -> Exit:
        async with client_of(settings) as client, interrupts():
            rows = [await _found(client, ref) for ref in refs]
            found = await client.recover([row.ref for row in rows] if refs else None)
            if not found.jobs:
                settings.output.say("nothing to collect")
            ends = await asyncio.gather(*(_collect(settings, job, target, name) for job in found.jobs))
            missing = [row for row in rows if row.ref not in {job.ref for job in found.jobs}]
            for row in missing:
                care = "in the care of another process"
                if row in found.unsent:
                    care = "it was never sent, and nothing is charged"
                settings.output.say(f"{row.ref}: {row.state.value}: {row.error or care}", "red")
        return Exit.FAILED if missing else next((code for code in ends if code), Exit.DONE)

    run(settings.output, work)


async def _collect(settings: Settings, job: Job, target: Path, name: str) -> Exit:
    try:
        saved = await _saved(job, target, name)
    except (ModelsLabError, OSError) as error:
        settings.output.error(error)
        return code_of(error)
    settings.output.result(
        {"ref": job.ref, "job_id": job.id, "path": saved.path, "sha256": saved.sha256}, str(saved.path)
    )
    return Exit.DONE


async def _saved(job: Job, target: Path, name: str) -> SavedVideo:
    if target.suffix == ".mp4":
        return await job.save(target, overwrite=False)
    await job
    return (await save_as(job, target, names(name, values_of(job, 1))))[1]


@click.command(epilog="Example: modelslab-async recover --search")
@click.option("--search", is_flag=True, help="also the account's videos that no row knows")
@common
def recover(settings: Settings, *, search: bool) -> None:
    """What processes that died left behind, and what to do about it. Nothing is submitted or paid."""

    async def work() -> Exit:
        async with client_of(settings) as client:
            found = await client.recover(search=search)
        groups = {"uncertain": found.uncertain, "unsent": found.unsent, "owned_elsewhere": found.owned_elsewhere}
        told: dict[str, Any] = {name: [told_of(row) for row in rows] for name, rows in groups.items()}
        told["jobs"] = [{"ref": job.ref, "job_id": job.id, "state": job.state} for job in found.jobs]
        told["candidates"] = [{"job_id": each.id, "links": each.links} for each in found.candidates]
        if settings.output.as_json:
            settings.output.json(told)
            return Exit.DONE
        say = settings.output.say
        say(f"{len(found.jobs)} paid for and not collected{': modelslab-async collect' if found.jobs else ''}")
        say(f"{len(found.unsent)} never sent, {len(found.owned_elsewhere)} in the care of another process")
        what = ": modelslab-async resolve REF --id ID | --lost" if found.uncertain else ""
        say(f"{len(found.uncertain)} uncertain{what}")
        settings.output.table({}, _HEAD, [_cells(row) for row in found.uncertain], "")
        if search:
            say(f"{len(found.candidates)} videos of the account that no row knows")
            settings.output.table({}, ("id", "link"), [(a.id, *a.links[:1]) for a in found.candidates], "")
        return Exit.DONE

    run(settings.output, work)


@click.command(epilog="Example: modelslab-async resolve 3f2a9c --lost")
@click.argument("ref")
@click.option("--id", "job_id", help="the service took it, under this id")
@click.option("--lost", is_flag=True, help="the service never took it: it is not charged")
@common
def resolve(settings: Settings, ref: str, job_id: str | None, *, lost: bool) -> None:
    """Say what became of an uncertain job. It is your word; the service is only asked whether it knows the id."""
    if bool(job_id and job_id.strip()) == lost:
        raise click.UsageError("pass what you know of the job: --id ID or --lost")

    async def work() -> Exit:
        async with client_of(settings) as client:
            row = await _found(client, ref)
            whole = row.ref
            if row.state is JobState.SUBMITTING:  # uncertain from now on, where its client died
                await client.recover([whole])
            await client.resolve(whole, id=job_id, lost=lost)
        told = {"ref": whole, "job_id": job_id, "lost": lost}
        what = "lost, not charged" if lost else f"modelslab-async collect {whole}"
        settings.output.result(told, f"{whole}: {what}")
        return Exit.DONE

    run(settings.output, work)


async def _found(client: Client, ref: str) -> JobRecord:
    """The row with this ref or id of the service, or the only one whose ref begins so."""
    if row := await client.find(ref):
        return row
    rows = [row for row in await client.history(_SEARCHED) if row.ref.startswith(ref)]
    if len(rows) != 1:
        what = f"{len(rows)} jobs" if rows else "no job"
        raise NotFoundError(f"the journal knows {what} {ref}{'...' if rows else ''} of this account")
    return rows[0]


def _needs_care(client: Client, row: JobRecord) -> bool:
    """Whether somebody should still look after it; what was never sent, and nobody will send, needs no care."""
    is_left = row.state is JobState.WAITING and client.journal is not None and not client.journal.is_alive(row.owner)
    return row.state in UNFINISHED and row.saved_path is None and not is_left


def _cells(row: JobRecord) -> tuple[str, ...]:
    since = datetime.fromtimestamp(row.submitted_at or row.created_at).astimezone()
    cost = {True: f"${row.price}", False: "-", None: f"${row.price}?"}[row.charged]
    prompt = str((row.request or {}).get("prompt", ""))
    return row.ref, row.job_id or "", row.state.value, f"{since:%m-%d %H:%M:%S}", cost, prompt[:40]
