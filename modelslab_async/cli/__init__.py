"""The command `modelslab-async`, which needs the extra `cli`."""

from __future__ import annotations

import io
import sys


def main() -> None:
    """Run the command, and end the process with a code of `exit_codes`."""
    try:
        import click  # noqa: F401, PLC0415 - of the extra `cli`
        import rich  # noqa: F401, PLC0415
    except ImportError as error:
        sys.stderr.write(
            f"the command needs {error.name} (hint: python -m pip install 'modelslab_async[cli]')\n",
        )
        raise SystemExit(2) from None
    from modelslab_async.cli.app import app  # noqa: PLC0415 - it needs both

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a prompt may hold letters that the terminal cannot show

    app.main(prog_name="modelslab-async")
