"""Nothing in the emulator grows for ever: jobs, charges, uploads, accounts, files."""

from __future__ import annotations

import base64
import tempfile
from decimal import Decimal
from pathlib import Path

import pytest
from helpers.emulated_service import BALANCE, COUNT, DAY, NOT_FOUND, PNG, PNG_URI, UPLOAD, emulated_service, json_of
from helpers.emulator_server import ROCKET, running_emulator

from modelslab_async.emulator import Work, skeleton
from modelslab_async.emulator.store import FolderStore, MemoryStore


def slow_skeleton(work: Work) -> bytes:
    """Make a bare mp4 as a renderer of the user would: in a thread, into a file."""
    return skeleton(work)


def test_old_jobs_and_charges_are_forgotten_and_totals_stay() -> None:
    """Of more jobs than `keep`, the oldest finished ones are unknown. The ledger keeps the totals."""
    emulated = emulated_service(keep=10, queue_limit=1)
    now, ids = 0.0, []
    for _ in range(25):
        ids.append(json_of(emulated.submit(now))["id"])
        now = emulated.service.jobs[ids[-1]].done_at
    ledger = emulated.service.ledger
    assert list(emulated.service.jobs) == ids[-10:]
    assert [charge.job_id for charge in ledger.charges] == ids[-10:]
    assert (ledger.count, ledger.total(), emulated.service.queue.accepted) == (25, 25 * Decimal("0.20"), 25)
    assert emulated.fetch(ids[0], now) == NOT_FOUND
    assert emulated.fetch(ids[-10], now)["status"] == "success"
    assert len(set(ids)) == 25


def test_an_unfinished_job_is_never_forgotten() -> None:
    """A job that is queued or processing stays, even if there are more than `keep` of them."""
    emulated = emulated_service(keep=2, queue_limit=10)
    ids = [json_of(emulated.submit())["id"] for _ in range(10)]
    assert list(emulated.service.jobs) == ids
    assert {emulated.fetch(job_id)["status"] for job_id in ids} == {"processing"}


def test_old_accounts_are_forgotten_and_the_total_stays() -> None:
    """The accounts that were used longest ago are forgotten, except those with unfinished jobs."""
    emulated = emulated_service(keep=3)
    emulated.submit(key="busy")
    for number in range(20):
        emulated.post(BALANCE, key=f"key {number}")
    names = {account.name for account in emulated.service.accounts}
    assert len(names) == 3
    assert emulated.first_job.account in names
    done_at = emulated.first_job.done_at
    for number in range(20):
        emulated.post(COUNT, done_at, key=f"key {number}")
    assert emulated.first_job.account not in {account.name for account in emulated.service.accounts}
    assert (emulated.charged, emulated.service.ledger.total("busy")) == (Decimal("0.20"), Decimal(0))


def test_uploads_expire_and_are_bounded() -> None:
    """An upload is removed a day later, and the oldest if there are more than `keep`."""
    store = MemoryStore()
    emulated = emulated_service(keep=3, store=store)
    pictures = [f"data:image/png;base64,{base64.b64encode(PNG + bytes([number])).decode()}" for number in range(6)]
    links = [json_of(emulated.post(UPLOAD, base64_string=picture))["output"][0] for picture in pictures]
    statuses = [emulated.service.file(0.0, link.rpartition("/")[2]).status for link in links]
    assert statuses[-3:] == [200] * 3
    assert statuses.count(404) >= 2
    emulated.post(UPLOAD, DAY, base64_string=PNG_URI)
    assert len(store) == 1


@pytest.mark.parametrize("store", [MemoryStore(), FolderStore()], ids=["memory", "folder"])
def test_a_store_keeps_equal_content_once(store: MemoryStore | FolderStore) -> None:
    """Content stays until its last user drops it. Dropping what is unknown is no error."""
    names = [store.put(b"a"), store.put(b"a"), store.put(b"b"), store.put(b"c", "named")]
    assert (names[0], names[3], len(store)) == (names[1], "named", 3)
    assert [store.share("named"), store.share("unknown")] == [True, False]
    for name in (names[0], "named", "unknown", ""):
        store.drop(name)
    assert [store.get(name) for name in names] == [b"a", b"a", b"b", b"c"]
    for name in (names[0], "named", names[2]):
        store.drop(name)
    assert len(store) == 0
    with pytest.raises(LookupError):
        store.get(names[0])
    if isinstance(store, FolderStore):
        store.close()


async def test_files_lie_in_a_folder_that_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pictures and videos are files. A forgotten job takes its video with it, and closing removes everything."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def files() -> list[Path]:
        return [path for path in tmp_path.rglob("modelslab_async-emulator-*/*") if path.name != "ids.db"]

    async with running_emulator(render=slow_skeleton, keep=2, queue_limit=1) as running:
        links = [(await running.finish_job(seed=number))[1] for number in range(5)]
        assert len(files()) == 2
        assert [(await running.get(link))[0] for link in links] == [404, 404, 404, 200, 200]
        await running.submit(seed=6, num_inference_steps=100)
        assert ROCKET in [path.read_bytes() for path in files()]
    assert files() == []


async def test_a_temporary_video_is_removed_after_a_day() -> None:
    """The video of a temporary job is removed when it has expired, and the job stays known."""
    async with running_emulator(render=slow_skeleton) as running:
        job_id, link = await running.finish_job(temp=True)
        assert "/temp/" in link
        running.emulator.advance(DAY)
        assert (await running.get(link))[0] == 404
        await running.finish_job()
        assert (await running.get(link))[0] == 404
        assert job_id in running.emulator.service.jobs
