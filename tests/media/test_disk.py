"""File systems that cannot flush folders, or files."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.world import PNG, World, a_request

from modelslab_async import JobState
from modelslab_async.batch import run_batch

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
CODES = [errno.EINVAL, errno.EIO, errno.ENOTSUP, errno.EACCES]


@pytest.fixture(params=CODES, ids=errno.errorcode.get)
def code(request: pytest.FixtureRequest) -> int:
    """The error number with which the file system refuses."""
    assert isinstance(request.param, int)
    return request.param


@pytest.fixture(params=["fsync", "open"])
def folders_are_not_flushed(request: pytest.FixtureRequest, code: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let folders not be opened, or opened and not flushed. Return the list of refused attempts."""
    fsync, opens, attempts = os.fsync, os.open, list[str]()

    def no_fsync(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            attempts.append("fsync")
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    def no_open(path: Any, *arguments: Any, **options: Any) -> int:
        if os.path.isdir(path):  # noqa: PTH112 - any kind of path
            attempts.append("open")
            raise OSError(code, os.strerror(code))
        return opens(path, *arguments, **options)

    patched: dict[str, Any] = {"fsync": no_fsync, "open": no_open}
    monkeypatch.setattr(os, request.param, patched[request.param])
    return attempts


async def test_a_video_is_saved_if_its_folder_cannot_be_flushed(
    world: MakeWorld, tmp_path: Path, folders_are_not_flushed: list[str]
) -> None:
    """The file has its name, so `save` succeeds, with `overwrite` and without."""
    async with world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        for overwrite in (True, False):
            saved = await job.save(tmp_path / f"{overwrite}.mp4", overwrite=overwrite)
            assert saved.path.stat().st_size == saved.size_bytes
    assert len(folders_are_not_flushed) == 2


async def test_a_batch_makes_each_video_once_if_its_folder_cannot_be_flushed(
    world: MakeWorld, tmp_path: Path, folders_are_not_flushed: list[str]
) -> None:
    """The next run finds each video, and makes no second copy."""
    here = world()
    picture = tmp_path / "rocket.png"
    picture.write_bytes(PNG)
    for _ in range(2):
        async with here.client(journal=tmp_path / "jobs.db") as client:
            events = [event async for event in run_batch(client, [a_request(init_image=picture)], tmp_path / "out")]
            assert [event.result.state for event in events if event.result] == [JobState.READY]
    assert len(list((tmp_path / "out").glob("*.mp4"))) == len(here.service.ledger.charges) == 1
    assert folders_are_not_flushed


async def test_a_file_that_cannot_be_flushed_is_not_saved(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """The user's disk failed, so `save` raises OSError, and there is no file of that name."""
    fsync = os.fsync

    def no_fsync(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(code, os.strerror(code))
        fsync(descriptor)

    async with world().client() as client:
        job = client.submit(a_request())
        monkeypatch.setattr(os, "fsync", no_fsync)
        with pytest.raises(OSError, match=os.strerror(code)) as caught:
            await job.save(tmp_path / "out" / "a.mp4")
        monkeypatch.undo()
        assert caught.value.errno == code
        assert list((tmp_path / "out").iterdir()) == []
