"""Run thousands of jobs while everything goes wrong, and account for every job and charge.

    python -m benchmarks.chaos [--jobs N] [--no-proxy] [--proxy-jobs N] [--seed N] [--log PATH] [--json] [--check]

Takes about 30 seconds per 1,000 jobs. Linux only: open files are counted in /proc.

The emulator runs in another process, over real HTTP. The client keeps a journal and saves each video. In the first run
something fails on three of ten submits, fetches, files and webhooks, with each fault that the emulator knows. In the
second run one of twenty fails so, and all bytes except those of webhooks pass a proxy that damages them: it cuts,
resets, delays, drips, repeats, garbles, half-closes and stalls, at any byte of requests and replies.

`--log` stores what the proxy did, a JSON object a line. The damage of a connection depends only on the seed and the
connection's number. Which connection carries which request depends on time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import sys
import time
from pathlib import Path

import attrs

from benchmarks import _chaos
from benchmarks._common import Target, log, parse_options, print_results, table
from benchmarks._damage import Damages

_DAMAGE_RATE = 0.4
_OTHER_FIELDS = ("ends", "damage", "log", "notes", "early_bytes", "late_bytes")
"""Fields of an account that are not printed as rows."""
_LABELS = {
    "lost": "charged jobs that neither the program nor the journal knows",
    "disagreements": "jobs whose state in the journal differs",
    "late": "exceeded time bounds",
    "foreign": "unexpected exceptions",
    "wrong_files": "saved files with wrong content",
    "changed_files": "saved files that the proxy changed",
    "charged_twice": "jobs charged twice",
    "leaked_tasks": "leaked tasks",
    "leaked_files": "leaked sockets and files",
}
"""Fields of an account whose names need words."""
_MAX_NOTES = 50


def main() -> int:
    """Run and print the accounts. Return the exit code."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument(
        "--jobs", type=int, default=2000, metavar="N", help="jobs of the first run, 0 for none (default: 2000)"
    )
    more.add_argument(
        "--proxy", action=argparse.BooleanOptionalAction, default=True, help="do the second run (default: yes)"
    )
    more.add_argument(
        "--proxy-jobs", type=int, default=3000, metavar="N", help="jobs of the second run (default: 3000)"
    )
    more.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the damage (default: 1)")
    more.add_argument("--log", type=Path, metavar="PATH", help="file for the log of the damage")
    options, args = parse_options(__doc__, more)
    logging.disable()  # thousands of intended failures
    texts, targets, accounts = [], [], {}
    damages = Damages(seed=args.seed, rate=_DAMAGE_RATE)
    for name, jobs, rate, damaged in (
        ("faults", args.jobs, _chaos.RATE, None),
        ("damaged bytes", args.proxy_jobs if args.proxy else 0, _chaos.RATE_BEHIND_PROXY, damages),
    ):
        if jobs:
            begun = time.monotonic()
            account = asyncio.run(_chaos.run(jobs, log, rate=rate, damages=damaged, limit=60 + jobs / 10))
            texts.append(f"{_rows(account, f'{jobs} jobs, {name}')}\n{time.monotonic() - begun:.0f} s\n")
            targets += _targets(account, jobs, name)
            accounts[name] = attrs.asdict(account, filter=lambda field, _: field.name != "log")
            if damaged and args.log:
                args.log.write_text("".join(f"{json.dumps(entry)}\n" for entry in account.log), encoding="utf-8")
            for note in account.notes[:_MAX_NOTES]:
                log(f"{name}: {note}")
    return print_results(options, "\n".join(texts), {"benchmark": "chaos", "accounts": accounts}, targets)


def _rows(account: _chaos.Account, title: str) -> str:
    rows = [(f"ended {state}", str(count)) for state, count in sorted(account.ends.items())]
    counts = attrs.asdict(account, filter=lambda field, _: field.name not in _OTHER_FIELDS)
    rows += [(_LABELS.get(name, name), str(value)) for name, value in counts.items()]
    rows.append(("memory at the end ÷ memory after a fifth of the jobs", f"{_growth(account):.2f}"))
    rows += [(f"damage: {what}", str(times)) for what, times in sorted(account.damage.items())]
    return table((title, ""), rows)


def _growth(account: _chaos.Account) -> float:
    return account.late_bytes / max(account.early_bytes, 1)


def _targets(account: _chaos.Account, jobs: int, name: str) -> list[Target]:
    values = {
        "jobs without an end": jobs - sum(account.ends.values()),
        "charges without an accepted job, or accepted jobs without a charge": abs(account.charges - account.accepted),
    }
    fields = (
        "charged_twice", "lost", "disagreements", "late", "foreign", "wrong_files", "leaked_tasks", "leaked_files"
    )  # fmt: skip
    values |= {_LABELS[field]: getattr(account, field) for field in fields}
    targets = [Target(f"{name}: {what}", value, 0.0) for what, value in values.items()]
    return [*targets, Target(f"{name}: memory at the end ÷ memory after a fifth of the jobs", _growth(account), 1.25)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
