"""Everything goes wrong: thousands of jobs, and the account of what became of them.

    python -m benchmarks.chaos [--jobs N] [--no-proxy] [--proxy-jobs N] [--seed N] [--log PATH] [--json] [--check]

The emulator runs in another process, over real HTTP. The client keeps a journal, and saves each video. There are two
runs. In the first, something fails on three of ten submits, fetches, files and webhooks: each fault that the emulator
knows. In the second, one of twenty fails so, and all bytes but those of webhooks pass a proxy that damages them: it
cuts, resets, delays, drips, repeats, garbles, half-closes and stalls, at any byte of requests and replies. `--log`
keeps what the proxy did, a JSON object a line. What it does to a connection depends on the seed and the connection's
number only; which connection carries which request depends on time.

Linux only: open files are counted in /proc. About half a minute for each 1,000 jobs.
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
from benchmarks._common import Reach, conclude, options, say, table
from benchmarks._damage import Damages

_DAMAGE_RATE = 0.4
_SAID = ("ends", "damage", "log", "notes", "early_bytes", "late_bytes")
"""Fields of an account that have no row of their own."""
_MOST_NOTES = 50


def main() -> int:
    """Run, and print the accounts."""
    more = argparse.ArgumentParser(add_help=False)
    more.add_argument(
        "--jobs", type=int, default=2000, metavar="N", help="of the first run, 0 for none (default: 2000)"
    )
    more.add_argument("--proxy", action=argparse.BooleanOptionalAction, default=True, help="do the second run")
    more.add_argument("--proxy-jobs", type=int, default=3000, metavar="N", help="of the second run (default: 3000)")
    more.add_argument("--seed", type=int, default=1, metavar="N", help="of the damage (default: 1)")
    more.add_argument("--log", type=Path, metavar="PATH", help="write there what the proxy did")
    wanted, given = options(__doc__, more)
    logging.disable()  # thousands of failures, as ordered
    texts, reaches, accounts = [], [], {}
    damages = Damages(seed=given.seed, rate=_DAMAGE_RATE)
    for name, jobs, rate, damaged in (
        ("faults", given.jobs, _chaos.RATE, None),
        ("damaged bytes", given.proxy_jobs if given.proxy else 0, _chaos.RATE_BEHIND_PROXY, damages),
    ):
        if jobs:
            begun = time.monotonic()
            account = asyncio.run(_chaos.run(jobs, say, rate=rate, damages=damaged, limit=60 + jobs / 10))
            texts.append(f"{_rows(account, f'{jobs} jobs, {name}')}\n{time.monotonic() - begun:.0f} s\n")
            reaches += _reaches(account, jobs, name)
            accounts[name] = attrs.asdict(account, filter=lambda field, _: field.name != "log")
            if damaged and given.log:
                given.log.write_text("".join(f"{json.dumps(entry)}\n" for entry in account.log), encoding="utf-8")
            for note in account.notes[:_MOST_NOTES]:
                say(f"{name}: {note}")
    return conclude(wanted, "\n".join(texts), {"benchmark": "chaos", "accounts": accounts}, reaches)


def _rows(account: _chaos.Account, title: str) -> str:
    rows = [(f"ended {state}", str(count)) for state, count in sorted(account.ends.items())]
    counts = attrs.asdict(account, filter=lambda field, _: field.name not in _SAID)
    rows += [(name.replace("_", " "), str(value)) for name, value in counts.items()]
    rows.append(("memory at the end, of that after a fifth of the jobs", f"{_grown(account):.2f}"))
    rows += [(f"damage: {what}", str(times)) for what, times in sorted(account.damage.items())]
    return table((title, ""), rows)


def _grown(account: _chaos.Account) -> float:
    return account.late_bytes / max(account.early_bytes, 1)


def _reaches(account: _chaos.Account, jobs: int, name: str) -> list[Reach]:
    values = {
        "jobs without an end": jobs - sum(account.ends.values()),
        "charges without an accepted job, or the other way": abs(account.charges - account.accepted),
        "jobs charged twice": account.charged_twice,
        "charged jobs that neither program nor journal knows": account.lost,
        "jobs of which the journal says something else": account.disagreements,
        "bounds outstayed": account.late,
        "foreign exceptions": account.foreign,
        "saved files with another content": account.wrong_files,
        "leaked tasks": account.leaked_tasks,
        "leaked sockets and files": account.leaked_files,
    }
    reaches = [Reach(f"{name}: {what}", value, 0.0) for what, value in values.items()]
    return [*reaches, Reach(f"{name}: memory at the end, of that after a fifth", _grown(account), 1.25)]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
