"""Which clients are alive, as others see it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from modelslab_async.journal.liveness import LivenessLock


def test_a_client_is_alive_while_it_holds_its_lock(tmp_path: Path) -> None:
    """A client is alive for others until it releases its lock. What a dead client left is removed."""
    one, other = LivenessLock(tmp_path / "jobs.db"), LivenessLock(tmp_path / "jobs.db")
    one.acquire()
    assert one.owner != other.owner
    assert one.is_alive(one.owner)
    assert other.is_alive(one.owner)
    one.release()
    assert not other.is_alive(one.owner)
    (tmp_path / f"jobs.db-{'0' * 16}.alive").touch()
    assert not other.is_alive("0" * 16)
    assert not list(tmp_path.glob("*.alive"))


def test_a_lock_that_cannot_be_read_counts_as_held(tmp_path: Path) -> None:
    """If nothing can be known of a client, its jobs are not taken from it."""
    lock = LivenessLock(tmp_path / "jobs.db")
    lock.path_of("0" * 16).mkdir()
    assert lock.is_alive("0" * 16)


def test_a_client_that_opens_is_alive_although_others_look_for_dead_ones(tmp_path: Path) -> None:
    """Who looks for dead clients holds their files for a moment. A new client gets its lock all the same."""
    path = tmp_path / "jobs.db"
    look = (
        "import pathlib, sys; from modelslab_async.journal.liveness import LivenessLock\n"
        "other = LivenessLock(pathlib.Path(sys.argv[1]))\n"
        "print(flush=True)\n"
        "while True: other.counts_of_dead(), other.others_alive()"
    )
    with subprocess.Popen([sys.executable, "-c", look, path], stdout=subprocess.PIPE) as looking:
        assert looking.stdout is not None
        looking.stdout.readline()
        try:
            for _ in range(2000):
                lock = LivenessLock(path)
                lock.acquire()
                assert LivenessLock(path).is_alive(lock.owner)
                lock.release()
        finally:
            looking.kill()
