"""The command `generate`: make one video."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click

from modelslab_async.batch.files import save_as, values_of
from modelslab_async.batch.naming import DEFAULT_NAME, names
from modelslab_async.batch.results import counted
from modelslab_async.cli.display import follow, label_of
from modelslab_async.cli.exit_codes import Exit, code_of
from modelslab_async.cli.help import REQUEST, SAVING, WAITING, Command, option
from modelslab_async.cli.output import Output
from modelslab_async.cli.parameters import input_options, parameter_options
from modelslab_async.cli.runner import handle_interrupts, open_client, run
from modelslab_async.cli.settings import JOBS, Settings, common_options
from modelslab_async.client import Client
from modelslab_async.engine.config import call_of, normalize_request
from modelslab_async.errors import InvalidRequestError, ModelsLabError, Problem, usd
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS, inputs_of, operation_named


def _help() -> str:
    rows = "\n".join(f"  {row.name:16} {_price(row.price):8} {row.confidence}" for row in OPERATIONS.values())
    return f"""Turn IMAGE (a path or a URL) into an mp4, or make a video by another operation.

    The operations, the price of a call, and how well their parameters are known:

    \b
{rows}

    IMAGE is the parameter init_image. A price is unknown if ModelsLab documents none.
    """


def _price(price: Decimal | None) -> str:
    return "unknown" if price is None else usd(price)


@click.command(
    cls=Command,
    help=_help(),
    example='modelslab-async generate castle.jpg -p "clouds pass" --seed 7 -o castle.mp4',
)
@click.argument("image", required=False)
@option("-p", "--prompt", group=REQUEST, metavar="TEXT", help="what the video should show")
@option(
    "--operation",
    group=REQUEST,
    metavar="NAME",
    default=DEFAULT_OPERATION,
    show_default=True,
    help="the service's operation, listed above",
)
@input_options
@option(
    "-o",
    "--output",
    "target",
    group=SAVING,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="path of the video; default PICTURE-SEED.mp4",
)
@option("--force", group=SAVING, is_flag=True, help="replace an existing file")
@option("--no-wait", group=WAITING, is_flag=True, help="print the ref and exit; collect the video later")
@parameter_options
@common_options("emulate", *JOBS, "limits")
def generate(settings: Settings, **options: Any) -> None:
    """Make one video."""
    if options["no_wait"] and settings.emulate:
        raise click.UsageError(
            "--no-wait cannot be used with --emulate, because its emulator ends with the command "
            "(hint: start one with modelslab-async emulator)"
        )
    run(settings.output, lambda: _generate(settings, **options))


async def _generate(
    settings: Settings,
    *,
    image: str | None,
    prompt: str | None,
    operation: str,
    files: Mapping[str, Any],
    target: Path | None,
    force: bool,
    no_wait: bool,
    params: dict[str, Any],
) -> Exit:
    output = settings.output
    if target:
        _check_target(target, force=force)
    async with open_client(settings) as client:
        client.api_key.require_absent(output=target)
        request = _request(image, prompt, operation, files, params)
        client.check(request)
        await _check_unpaid(settings, client, request)
        output.say(f"{usd(client.prices.price_of(*call_of(request)).usd)} for one video")
        job = client.submit(request)
        job.target = target or Path()
        try:
            async with handle_interrupts():
                if no_wait:
                    await job.submitted()
                    _print_how_to_collect(settings, job)
                    return Exit.DONE
                return await _save(client, settings, job, target, force=force)
        except asyncio.CancelledError:
            await client.aclose(drain=False)  # waits for the reply to a submit under way
            _print_how_to_collect(settings, job)
            return Exit.INTERRUPTED


def _request(
    image: str | None, prompt: str | None, operation: str, files: Mapping[str, Any], params: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the request as a mapping. An --extra that is a parameter of the operation is passed as that parameter.

    Raises InvalidRequestError for an unknown operation, click.UsageError for two pictures.
    """
    row = operation_named(operation)
    if image is not None and "init_image" in files:
        raise click.UsageError("pass the picture once: as IMAGE, or as --init-image")
    extra = dict(params.get("extra", {}))
    known = {name: extra.pop(name) for name in list(extra) if name in row.parameters and name not in params}
    given = {"prompt": prompt, "init_image": image, **files}
    return {
        "operation": operation,
        **{name: value for name, value in given.items() if value is not None},
        **known,
        **params,
        **({"extra": extra} if "extra" in params else {}),
    }


async def _check_unpaid(settings: Settings, client: Client, request: Mapping[str, Any]) -> None:
    """Refuse a request that an earlier run paid for, or may have paid for, if its video was not saved.

    A request with a track_id is never refused: with it, the user asks for another video.

    Raises InvalidRequestError.
    """
    if "track_id" in request or client.journal is None:
        return
    wanted, journal = normalize_request(request, {}), client.journal
    files = {each.name: value for each, value in inputs_of(wanted)}
    asked = {**wire.stored_request(wanted, ref=""), **{name: _location(value) for name, value in files.items()}}
    for row, is_alive in await journal.unfinished(client.account_id):
        is_open = row.state is not JobState.WAITING and not is_alive
        known = {**(row.request or {}), "track_id": ""}
        known |= {name: _location(known[name]) for name in files if name in known}
        if is_open and row.operation == wanted.operation and known == asked:
            is_uncertain = row.state in (JobState.SUBMITTING, JobState.UNCERTAIN)
            command = settings.command("resolve" if is_uncertain else "collect", row.ref)
            requirement = "cannot be submitted: an earlier run paid, or may have paid, for the same request"
            hint = f"run {command}, or pass --track-id NAME to pay for another video"
            image = next(iter(files.values()), wanted.prompt)
            raise InvalidRequestError([Problem("image" if files else "prompt", repr(image), requirement, hint)])


def _location(file: Any) -> Any:
    """Return a URL unchanged, and a path as its shortest absolute form."""
    if isinstance(file, list | tuple):
        return [_location(each) for each in file]
    where = str(file)
    return where if "://" in where else os.path.abspath(where)  # noqa: PTH100 - pathlib keeps ".."


def _check_target(target: Path, *, force: bool) -> None:
    """Check that the file can be written, before the job is paid for. Raises InvalidRequestError."""
    requirement, hint = None, "choose another file"
    try:
        with TemporaryFile(dir=next(parent for parent in target.absolute().parents if parent.exists())):
            if target.is_dir():
                requirement = "cannot be a folder"
            elif target.exists() and not force:
                requirement, hint = "cannot be replaced: the file exists", "choose another file, or pass --force"
    except OSError as error:
        requirement = f"cannot be written: {error.strerror}"
    if requirement:
        raise InvalidRequestError([Problem("output", repr(str(target)), requirement, hint)])


async def _save(client: Client, settings: Settings, job: Job, target: Path | None, *, force: bool) -> Exit:
    """Wait for the job, and save its video to *target*, or under a generated name if *target* is None."""
    output = settings.output
    await follow(output, job, label_of(job.request))
    try:
        video = await job
        if target:
            saved = await job.save(target, overwrite=force)
        else:
            _, saved = await save_as(job, Path(), names(DEFAULT_NAME, values_of(job, 1), video.container))
    except (ModelsLabError, OSError) as error:
        output.error(error)
        is_disk_error = not isinstance(error, ModelsLabError)
        if job.id and getattr(error, "charged", is_disk_error) and not output.is_emulated:
            elsewhere = ("-o", ".") if is_disk_error and target else ()
            output.say(f"it is paid for; collect it with: {settings.command('collect', job.ref, *elsewhere)}")
        _print_how_to_resolve(settings, job)
        return code_of(error)
    record = await client.find(job.ref)
    _print_saved(output, job, saved, video.seed, record.usd if record else None)
    return Exit.DONE


def _print_saved(output: Output, job: Job, saved: SavedVideo, seed: int | None, price: object) -> None:
    facts = [f"{saved.width}x{saved.height}", counted(saved.frames or 0, "frame")] if saved.width else []
    facts += [f"{saved.fps:g} fps", f"{saved.duration:.1f} s"] if saved.fps and saved.duration else []
    facts += [f"{saved.size_bytes:,} bytes", *([] if seed is None else [f"seed {seed}"])]
    values = {**saved._asdict(), "seed": seed, "ref": job.ref, "job_id": job.id, "state": job.state, "cost": price}
    output.result(values, f"{saved.path}  {', '.join(facts)}")


def _print_how_to_collect(settings: Settings, job: Job) -> None:
    """Print the state of a job that the command no longer waits for, and the command that collects it."""
    output = settings.output
    if job.cancelled():
        output.say("not submitted: nothing was charged")
        return
    if job.id is None:
        output.error((job.exception() if job.done() else None) or asyncio.CancelledError())
        _print_how_to_resolve(settings, job)
        return
    values = {"ref": job.ref, "job_id": job.id, "state": job.state}
    if output.is_emulated:
        output.result(values, f"job {job.id} ended with its emulator; nothing was paid")
        return
    output.say(f"job {job.id or job.ref} runs at the service and is paid for; collect it with:")
    command = settings.command("collect", job.ref)
    output.result({**values, "collect": command}, command)


def _print_how_to_resolve(settings: Settings, job: Job) -> None:
    if job.state is JobState.UNCERTAIN and not settings.emulate:
        find, resolve = settings.command("recover", "--search"), settings.command("resolve", job.ref)
        settings.output.say(f"the job may be paid for (hint: look for its video with {find}, then run {resolve})")
