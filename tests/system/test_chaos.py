"""All faults at once: the account must be right all the same. Real sockets, real time."""

from __future__ import annotations

import asyncio
import sys

import pytest

from benchmarks import _chaos

JOBS = 60


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_the_account_is_right_under_all_faults() -> None:
    """Each job ends. Each charge is of a job that was accepted or is uncertain, and none is made twice or lost.

    The journal agrees, only documented errors are raised, no task or file is left open, and each saved file is the
    job's own.
    """
    account = asyncio.run(_chaos.run(JOBS, lambda _: None))
    assert sum(account.ends.values()) == JOBS
    assert set(account.ends) <= {"ready", "failed", "uncertain", "refused", "timed_out"}
    assert account.charges == account.accepted > 0
    assert (account.charged_twice, account.lost, account.disagreements) == (0, 0, 0), account.notes
    assert (account.late, account.foreign, account.wrong_files) == (0, 0, 0), account.notes
    assert (account.leaked_tasks, account.leaked_files) == (0, 0)
