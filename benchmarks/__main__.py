"""Run benchmarks one after the other, store their results as JSON and draw them.

    python -m benchmarks [--json] [--check] [--into FOLDER] [NAME ...]       all benchmarks: about 90 minutes

NAME is a module of this folder, such as `memory`. The results go to `benchmarks/results`: NAME.json and, if the
benchmark has figures to draw, NAME.svg. Drawing needs the extra `bench`. To run one benchmark without storing its
results: python -m benchmarks.NAME.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks._common import log

_HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in _HERE.glob("*.py") if not path.stem.startswith("_"))


def run(name: str, into: Path) -> dict[str, Any] | None:
    """Run a benchmark and store its results. Return them, or None if it failed. Its progress goes to stderr."""
    log(f"== {name}")
    command = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    process = subprocess.run(command, cwd=_HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if process.returncode:
        return None
    results: dict[str, Any] = json.loads(process.stdout)
    (into / f"{name}.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return results


def draw_all(into: Path) -> None:
    """Draw the figures of all results in the folder, and one picture of all targets."""
    from benchmarks._bars import draw, draw_targets  # noqa: PLC0415 - matplotlib is in the extra `bench`

    targets = []
    for path in sorted(into.glob("*.json")):
        results = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(results.get("figures"), list):
            source = f"{results['conditions']}\n{results['machine']}"
            draw(results["figures"], source, path.with_suffix(".svg"))
            targets += [{**target, "name": f"{path.stem}: {target['name']}"} for target in results["targets"]]
    if targets:
        draw_targets(targets, into / "targets.svg")


def main() -> int:
    """Run the requested benchmarks. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"benchmarks to run (default: all of {', '.join(NAMES)})"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target is missed")
    parser.add_argument("--into", type=Path, default=_HERE / "results", help="folder for the results")
    args = parser.parse_args()
    if unknown := set(args.names) - set(NAMES):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))} (hint: choose from {', '.join(NAMES)})")
    args.into.mkdir(parents=True, exist_ok=True)
    results = {name: run(name, args.into) for name in args.names or NAMES}
    if find_spec("matplotlib"):
        draw_all(args.into)
    failed = [name for name, each in results.items() if each is None]
    targets = [(name, target) for name, each in results.items() if each for target in each["targets"]]
    missed = [f"{name}: {target['name']}" for name, target in targets if target["missed"]]
    print(json.dumps(results) if args.json else _summary(len(targets), missed, failed))
    return int(bool(failed) or (args.check and bool(missed)))


def _summary(targets: int, missed: list[str], failed: list[str]) -> str:
    lines = [f"{targets - len(missed)} of {targets} targets met"]
    lines += [f"MISSED: {name}" for name in missed]
    lines += [f"FAILED: {name}" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
