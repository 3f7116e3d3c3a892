"""What the journal's rows hold, and when they are written."""

from __future__ import annotations

import asyncio
import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.interfering_journals import FailingJournal, LocklessJournal
from helpers.left_behind import row_of
from helpers.world import KEY, PNG, MakeWorld, a_request

from modelslab_async import Client, InvalidRequestError, JobRecord, JobState, JournalError
from modelslab_async.emulator import Fault, Rule
from modelslab_async.journal.sqlite import SqliteJournal

pytestmark = pytest.mark.looptime
S = JobState


async def test_a_row_holds_what_a_later_client_needs(make_world: MakeWorld, tmp_path: Path) -> None:
    """A row holds the job's id, links, request, price, times and picture location, but no key and no picture."""
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG + b"pixels that no row holds")
    async with make_world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(init_image=picture, seed=7))
        await job.submitted()
        running = await row_of(client, job.ref)
        await job
        ready = await row_of(client, job.ref)
        saved = await job.save(tmp_path / "a.mp4")
        assert (await row_of(client, job.ref)).saved_path == str(saved.path)
    assert (running.state, running.job_id, running.charged) == (S.PROCESSING, job.id, True)
    assert running.request is not None
    assert (running.request.get("prompt"), running.request.get("seed")) == ("moving character", 7)
    assert running.picture == {
        "source": "path",
        "where": str(picture),
        "length_bytes": picture.stat().st_size,
        "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }
    assert (ready.state, ready.links, str(ready.price)) == (S.READY, job.result().links, "0.2")
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert KEY.encode() not in written
    assert b"pixels that no row holds" not in written


@pytest.mark.parametrize("source", ["path", "url", "bytes"])
async def test_a_waiting_row_holds_the_location_of_its_picture(
    make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """A later process in any folder can send the job: its row has the picture's absolute path, or URL without the key.

    A picture passed as bytes has no location, but a length and a digest. Those of a file are known once it is sent.
    """
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PNG)
    pictures: dict[str, tuple[Any, dict[str, Any]]] = {
        "path": ("a.png", {"source": "path", "where": str(tmp_path / "a.png")}),
        "url": (f"https://x.invalid/{KEY}/a", {"source": "url", "where": "https://x.invalid/***/a"}),
        "bytes": (PNG, {"source": "bytes", "length_bytes": len(PNG), "sha256": hashlib.sha256(PNG).hexdigest()}),
    }
    picture, kept = pictures[source]
    async with make_world().client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        running, waiting = (client.submit(a_request(init_image=picture)) for _ in range(2))
        await running.submitted()
        record = await row_of(client, waiting.ref)
        assert (record.state, record.picture) == (S.WAITING, kept)
        sent = (await row_of(client, running.ref)).picture or {}
        assert sent.items() >= kept.items()
        assert ("sha256" in sent) == (source != "url")
        await client.aclose(drain=False)
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert KEY.encode() not in written


async def test_an_acceptance_is_on_disk_before_anyone_is_notified(make_world: MakeWorld, tmp_path: Path) -> None:
    """When the program learns of the acceptance, another program finds the service's id in the file."""
    async with make_world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        job_id = await job.submitted()
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
            rows = other.execute("SELECT ref, job_id, state FROM jobs").fetchall()
    assert rows == [(job.ref, job_id, "processing")]


async def test_a_job_that_cannot_be_recorded_is_not_sent(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the journal cannot be written, the job is refused with that error and not charged. Later jobs are sent."""
    world, journal = make_world(), FailingJournal(tmp_path / "jobs.db")
    async with world.client(journal=journal) as client:
        journal.is_full = True
        job = client.submit(a_request())
        with pytest.raises(JournalError, match="the disk is full") as caught:
            await job
        assert (job.state, caught.value.charged, world.count("img2video")) == (S.REFUSED, False, 0)
        journal.is_full = False
        await client.submit(a_request())
    assert len(world.service.ledger.charges) == 1


async def test_a_reply_counts_although_another_client_took_its_job_over(make_world: MakeWorld, tmp_path: Path) -> None:
    """A client that looks dead gets the reply after another client made its row UNCERTAIN: the id is kept.

    The job goes on to its video, and cannot be resolved as lost.
    """
    world = make_world(faults=[Rule(Fault.SLOW, times=1, seconds=20)])
    async with world.client(journal=tmp_path / "jobs.db") as owner:
        job = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(5)
        journal = LocklessJournal(tmp_path / "jobs.db")
        async with world.client(journal=journal) as other:
            (uncertain,) = (await other.recover()).uncertain
            assert (uncertain.ref, uncertain.owner) == ("mine", journal.owner)
            assert (await row_of(other, "mine")).state is S.UNCERTAIN
            await job.submitted()
            accepted = await row_of(other, "mine")
            assert (accepted.job_id, accepted.state) == (job.id, S.PROCESSING)
            with pytest.raises(InvalidRequestError, match="processing"):
                await other.resolve("mine", lost=True)
            await job.save(tmp_path / "a.mp4")
        assert (await row_of(owner, "mine")).saved_path == str(tmp_path / "a.mp4")


async def test_recording_a_saved_file_after_the_close_raises_nothing(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the client was closed meanwhile, the journal does not get the path, and the save raises no error."""
    client = make_world().client(journal=tmp_path / "jobs.db")
    async with client:
        job = client.submit(a_request())
        await job
    await engine_of(client).recorder.record_saved(job.ref, "a.mp4")
    assert (await row_in_file(tmp_path / "jobs.db", client, job.ref)).saved_path is None


async def row_in_file(path: Path, client: Client, ref: str) -> JobRecord:
    """Return a job's row from a journal whose client is closed."""
    journal = SqliteJournal(path)
    await journal.open()
    row = await journal.find(client.account_id, ref=ref)
    await journal.close()
    assert row is not None
    return row.record
