"""`generate`: one picture, one video."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from modelslab_async.batch.files import save_as, values_of
from modelslab_async.batch.naming import DEFAULT_NAME, names
from modelslab_async.batch.results import usd
from modelslab_async.cli.display import follow
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.output import Output
from modelslab_async.cli.parameters import parameters
from modelslab_async.cli.runner import client_of, interrupts, run
from modelslab_async.cli.settings import Settings, common
from modelslab_async.client import Client
from modelslab_async.engine.config import normalize_request
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import JobState


@click.command(epilog='Example: modelslab-async generate castle.jpg -p "clouds pass" --num-frames 49 -o castle.mp4')
@click.argument("image")
@click.option("-p", "--prompt", required=True, help="what should be seen")
@click.option("-o", "--output", "target", type=click.Path(path_type=Path), metavar="FILE", help="where the mp4 goes")
@click.option("--force", is_flag=True, help="replace a file that is there")
@click.option("--no-wait", is_flag=True, help="print the ref and end; collect it later")
@parameters
@common
def generate(settings: Settings, **options: Any) -> None:
    """Turn IMAGE (a path or a URL) into an mp4. Costs $0.20."""
    if options["no_wait"] and settings.emulate:
        raise click.UsageError("--no-wait: that emulator ends with this command; start one: modelslab-async emulator")
    run(settings.output, lambda: _generate(settings, **options))


async def _generate(
    settings: Settings,
    *,
    image: str,
    prompt: str,
    target: Path | None,
    force: bool,
    no_wait: bool,
    params: dict[str, Any],
) -> Exit:
    output = settings.output
    if target:
        _check_target(target, force=force)
    async with client_of(settings) as client:
        client._api_key.require_absent(output=target)
        wanted = {"prompt": prompt, "init_image": image, **params}
        client.check(wanted)
        await _check_unpaid(client, wanted)
        output.say(f"{usd(client.estimate([wanted]).usd)} for one video")
        job = client.submit(wanted)
        try:
            async with interrupts():
                if no_wait:
                    await job.submitted()
                    _say_how_to_collect(output, job, target)
                    return Exit.DONE
                return await _wait(client, settings, job, target, force=force)
        except asyncio.CancelledError:
            await client.aclose(drain=False)  # hears the reply to a submit that is under way
            _say_how_to_collect(output, job, target)
            return Exit.INTERRUPTED


async def _check_unpaid(client: Client, wanted: Mapping[str, Any]) -> None:
    """What an earlier run asked for, paid or may have paid for, and never saved is not paid for again."""
    if "track_id" in wanted:
        return  # a name of its own: another video is meant
    told = wire.encode_request(normalize_request(wanted, {}), ref="")
    picture = str(wanted["init_image"])
    place = _place(picture)
    journal = client.journal
    for row in await journal.unfinished(client.account_id) if journal else ():
        is_same = row.picture and _place(str(row.picture.get("where", ""))) == place
        is_open = row.state is not JobState.WAITING and journal is not None and not journal.is_alive(row.owner)
        if is_same and is_open and {**(row.request or {}), "track_id": ""} == told:
            what = "resolve" if row.state in (JobState.SUBMITTING, JobState.UNCERTAIN) else "collect"
            hint = f"modelslab-async {what} {row.ref}, or --track-id NAME to pay for another"
            requirement = "an earlier run has, or may have, paid for just this, and did not save it"
            raise InvalidRequestError([Problem("image", repr(picture), requirement, hint)])


def _place(where: str) -> str:
    """A URL as it is, a path without detours."""
    return where if "://" in where else os.path.abspath(where)  # noqa: PTH100 - pathlib keeps them


def _check_target(target: Path, *, force: bool) -> None:
    """Before anything is paid: that the file can be made there."""
    requirement, hint = "", "choose another"
    try:
        with TemporaryFile(dir=next(parent for parent in target.absolute().parents if parent.exists())):
            if target.is_dir():
                requirement = "a folder"
            elif target.exists() and not force:
                requirement, hint = "is there already", "choose another, or pass --force"
    except OSError as error:
        requirement = f"no file can be made there: {error.strerror}"
    if requirement:
        raise InvalidRequestError([Problem("output", repr(str(target)), requirement, hint)])


async def _wait(client: Client, settings: Settings, job: Job, target: Path | None, *, force: bool) -> Exit:
    output = settings.output
    await follow(output, job)
    try:
        video = await job
        if target:
            saved = await job.save(target, overwrite=force)
        else:
            _, saved = await save_as(job, Path(), names(DEFAULT_NAME, values_of(job, 1)))
    except (ModelsLabError, OSError) as error:
        output.error(error)
        is_of_the_disk = not isinstance(error, ModelsLabError)
        if job.id and getattr(error, "charged", is_of_the_disk) and not output.is_emulated:
            output.say(f"it is paid for; collect it with: {_command(job, None if is_of_the_disk else target)}")
        _say_how_to_resolve(output, job)
        return code_of(error)
    record = await client.find(job.ref)
    _tell(output, job, saved, video.seed, record.price if record else None)
    return Exit.DONE


def _tell(output: Output, job: Job, saved: SavedVideo, seed: int | None, price: object) -> None:
    facts = [f"{saved.width}x{saved.height}", f"{saved.frames} frames"] if saved.width else []
    facts += [f"{saved.fps:g} fps", f"{saved.duration:.1f} s"] if saved.fps and saved.duration else []
    facts += [f"{saved.size_bytes:,} bytes", *([] if seed is None else [f"seed {seed}"])]
    told = {**saved._asdict(), "seed": seed, "ref": job.ref, "job_id": job.id, "state": job.state, "cost": price}
    output.result(told, f"{saved.path}  {', '.join(facts)}")


def _say_how_to_collect(output: Output, job: Job, target: Path | None) -> None:
    if job.cancelled():
        output.say("not submitted: nothing was charged")
        return
    if job.id is None:
        output.error(job.error or asyncio.CancelledError())
        _say_how_to_resolve(output, job)
        return
    told = {"ref": job.ref, "job_id": job.id, "state": job.state}
    if output.is_emulated:
        output.result(told, f"job {job.id} ended with its emulator; nothing was paid")
        return
    output.say(f"job {job.id or job.ref} runs at the service and is paid for; collect it with:")
    output.result({**told, "collect": _command(job, target)}, _command(job, target))


def _say_how_to_resolve(output: Output, job: Job) -> None:
    if job.state is JobState.UNCERTAIN and not output.is_emulated:
        output.say("see what the account has with: modelslab-async recover --search, then say it with: resolve")


def _command(job: Job, target: Path | None) -> str:
    words = ["modelslab-async", "collect", job.ref, *(["-o", str(target)] if target else [])]
    return shlex.join(words)
