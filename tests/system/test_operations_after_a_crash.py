"""Jobs of every operation, submitted by a process that dies, are collected by another one. Real processes and HTTP."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.operations import NAMES, example

from modelslab_async import OPERATIONS, Client
from modelslab_async.emulator import Emulator, skeleton

pytestmark = pytest.mark.timeout(120)
_CHILD = """
import asyncio, json, os, sys
from modelslab_async import Client

async def main():
    url, journal, requests = sys.argv[1:]
    client = Client("any", base_url=url, journal=journal, limits=None, max_in_flight=20)
    await client.__aenter__()
    jobs = [client.submit(request) for request in json.loads(requests)]
    for job in jobs:
        await job.submitted()
    os._exit(7)

asyncio.run(main())
"""


async def test_another_process_collects_the_jobs_of_each_operation(tmp_path: Path) -> None:
    """The journal alone tells the next process where each job was submitted. Nothing is paid for twice."""
    requests = [{"operation": name, **example(name), "key": "", "track_id": name} for name in NAMES]
    async with Emulator(speed=5, queue_limit=20, render=skeleton, offline_pictures=True) as emulator:
        command = [sys.executable, "-c", _CHILD, emulator.url, str(tmp_path / "jobs.db"), json.dumps(requests)]
        child = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert child.returncode == 7, child.stderr
        async with Client("any", base_url=emulator.url, journal=tmp_path / "jobs.db") as client:
            jobs = {job.ref: job for job in (await client.recover()).jobs}
            assert {ref: job.operation for ref, job in jobs.items()} == {name: name for name in NAMES}
            for name, job in jobs.items():
                saved = await job.save(tmp_path / name)
                assert (await job).container in OPERATIONS[name].containers
                assert saved.path.exists()
        assert len(emulator.ledger.charges) == len(NAMES)
