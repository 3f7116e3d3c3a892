"""The command `report`: write the page of a batch."""

from __future__ import annotations

from pathlib import Path

import click

from modelslab_async.batch.report import write_report
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.cli.help import SAVING, Command, option
from modelslab_async.cli.output import Output
from modelslab_async.cli.runner import run
from modelslab_async.cli.settings import Settings, common_options
from modelslab_async.errors import InvalidRequestError, Problem


@click.command(cls=Command, example="modelslab-async report videos")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@option(
    "-o",
    "--output",
    "target",
    group=SAVING,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="the page; default FOLDER/report.html",
)
@common_options()
def report(settings: Settings, folder: Path, target: Path | None) -> None:
    """Write a page about a batch. It shows the videos, errors, timeline and cost."""

    async def work() -> Exit:
        print_report(settings.output, folder, target)
        return Exit.DONE

    run(settings.output, work)


def print_report(output: Output, folder: Path, target: Path | None) -> None:
    """Write the report of a batch's folder and print its path.

    Raises InvalidRequestError if the folder has no results, or if *target* is a file that is no HTML page; OSError.
    """
    if target and target.is_file():
        with target.open("rb") as file:
            is_page = file.read(14).lower() == b"<!doctype html"
        if not is_page:
            requirement, hint = (
                "cannot be replaced: the file is not a report",
                "choose another file, or remove it first",
            )
            raise InvalidRequestError([Problem("output", repr(str(target)), requirement, hint)])
    path = write_report(folder, to=target)
    output.result({"event": "report", "path": path}, str(path))
