"""The command `modelslab-async`, which needs the extra `cli`."""

from __future__ import annotations

import io
import sys

_PACKAGES = ("click", "platformdirs", "rich")
"""The packages of the extra `cli`."""
_INTERRUPTED = 130


def main() -> None:
    """Run the command, and end the process with a code of `exit_codes`."""
    try:
        import rich  # noqa: F401, PLC0415 - of the extra `cli`; a missing package is reported before anything is done

        from modelslab_async.cli.app import app  # noqa: PLC0415 - it needs the extra

        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a prompt may hold letters that the terminal cannot show

        app.main(prog_name="modelslab-async")
    except ImportError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _PACKAGES:
            raise
        sys.stderr.write(f"the command needs {name} (hint: python -m pip install 'modelslab_async[cli]')\n")
        raise SystemExit(2) from None
    except KeyboardInterrupt:  # Ctrl-C while modules are imported
        raise SystemExit(_INTERRUPTED) from None
