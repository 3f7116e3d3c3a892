"""Run benchmarks one after the other, keep what they say as JSON, and draw it.

    python -m benchmarks [--json] [--check] [--into FOLDER] [NAME ...]       all: takes about an hour

NAME is that of a module of this folder. Results go to `benchmarks/results`: NAME.json, and NAME.svg where there is
something to draw, which needs the extra `bench`. A benchmark by itself: python -m benchmarks.NAME.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks._common import say

_HERE = Path(__file__).resolve().parent
NAMES = sorted(path.stem for path in _HERE.glob("*.py") if not path.stem.startswith("_"))


def run(name: str, into: Path) -> dict[str, Any] | None:
    """What a benchmark says, kept and drawn; None where it failed. Its words go to stderr."""
    say(f"== {name}")
    words = [sys.executable, "-m", f"benchmarks.{name}", "--json"]
    ran = subprocess.run(words, cwd=_HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        return None
    told: dict[str, Any] = json.loads(ran.stdout)
    (into / f"{name}.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return told


def draw_all(into: Path) -> None:
    """Draw all figures that the folder has, and how they stand to their reaches."""
    from benchmarks._bars import draw, draw_reaches  # noqa: PLC0415 - of the extra `bench`

    reaches = []
    for path in sorted(into.glob("*.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(told.get("figures"), list):
            draw(told["figures"], f"{told['conditions']}\n{told['machine']}", path.with_suffix(".svg"))
            reaches += [{**reach, "name": f"{path.stem}: {reach['name']}"} for reach in told["reaches"]]
    if reaches:
        draw_reaches(reaches, into / "reaches.svg")


def main() -> int:
    """Run what is asked for; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or some of: {', '.join(NAMES)}")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--check", action="store_true", help="exit with 1 where a reach is missed")
    parser.add_argument("--into", type=Path, default=_HERE / "results", help="the folder of the results")
    given = parser.parse_args()
    if unknown := set(given.names) - set(NAMES):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are: {', '.join(NAMES)}")
    given.into.mkdir(parents=True, exist_ok=True)
    told = {name: run(name, given.into) for name in given.names or NAMES}
    if find_spec("matplotlib"):
        draw_all(given.into)
    failed = [name for name, each in told.items() if each is None]
    reaches = [(name, reach) for name, each in told.items() if each for reach in each["reaches"]]
    missed = [f"{name}: {reach['name']}" for name, reach in reaches if reach["missed"]]
    print(json.dumps(told) if given.json else _summary(len(reaches), missed, failed))
    return int(bool(failed) or (given.check and bool(missed)))


def _summary(reaches: int, missed: list[str], failed: list[str]) -> str:
    lines = [f"{reaches - len(missed)} of {reaches} reaches kept"]
    lines += [f"MISSED: {words}" for words in missed]
    lines += [f"FAILED: {name}" for name in failed]
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
