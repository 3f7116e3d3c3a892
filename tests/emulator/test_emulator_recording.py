"""Record the emulator's exchanges, and answer from the recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.emulator_server import BALANCE, FETCH, KEY, running_emulator

from modelslab_async import Client, InvalidRequestError
from modelslab_async.emulator import Emulator, Fault, Rule


async def exchange(**options: Any) -> list[Any]:
    """Submit, poll to the end and download; return what was answered, with relative links."""
    async with running_emulator(queue_limit=1, eta={"good": 1}, **options) as running:
        seen: list[Any] = []
        origin = running.emulator.url
        _, reply = await running.submit(track_id="mine", num_inference_steps=100, seed=1)
        seen.append((reply["id"], reply["fetch_result"].removeprefix(origin)))
        seen.append((await running.submit(num_frames=9))[0])
        end = await running.poll_until(reply["id"])
        (link,) = end["output"]
        assert link.startswith(origin)
        seen.append((link.removeprefix(origin), await running.wait_for_file(link)))
        seen.append((await running.get(link, Range="bytes=4-7"))[1])
        return seen


async def test_a_recording_is_replayed(tmp_path: Path) -> None:
    """The replay answers as the recorded emulator did, at its own address, and charges nothing."""
    recording = tmp_path / "recording.jsonl"
    recorded = await exchange(record=recording)
    assert KEY not in recording.read_text(encoding="utf-8")
    assert await exchange(replay=recording, render=None) == recorded
    async with running_emulator(replay=recording) as running:
        await running.submit(track_id="another", num_inference_steps=100, seed=1)
        assert running.emulator.ledger.charges == []


async def test_an_unknown_request_is_not_found(tmp_path: Path) -> None:
    """A request that was not recorded is answered with 404 and the reason."""
    recording = tmp_path / "recording.jsonl"
    async with running_emulator(record=recording) as running:
        await running.post(BALANCE)
    async with running_emulator(replay=recording) as running:
        assert (await running.post(BALANCE))[0] == 200
        status, reply = await running.post(f"{FETCH}1")
        assert (status, "no such request" in reply["message"]) == (404, True)
        assert (await running.get(f"{running.emulator.url}/generations/a.mp4"))[0] == 404


async def test_faults_are_recorded(tmp_path: Path) -> None:
    """A page of a gateway is replayed as such, and then the answer that followed it."""
    recording = tmp_path / "recording.jsonl"
    rules = [Rule(Fault.HTML_502, on="call", times=1)]
    for options in ({"record": recording, "faults": rules}, {"replay": recording}):
        async with running_emulator(**options) as running:
            statuses = []
            for _ in range(2):
                async with running.session.post(running.emulator.url + BALANCE, json={"key": KEY}) as response:
                    statuses.append((response.status, response.content_type))
            assert statuses == [(502, "text/html"), (200, "application/json")]


async def test_the_client_works_with_a_replay(tmp_path: Path) -> None:
    """A client whose jobs have refs of their own gets the recorded video."""
    recording = tmp_path / "recording.jsonl"
    videos: list[bytes] = []
    for options in ({"record": recording}, {"replay": recording}):
        async with (
            running_emulator(**options) as running,
            Client(KEY, base_url=running.emulator.url, poll_cost=0.01) as client,
        ):
            job = client.submit(prompt="zoom in", init_image=_PICTURE, seed=1, num_frames=8)
            saved = await job.save(tmp_path / f"{len(videos)}.mp4")
            videos.append(saved.path.read_bytes())
    assert videos[0] == videos[1]


_PICTURE = Path(__file__).parents[2] / "examples" / "rocket.jpg"


@pytest.mark.parametrize("content", ["no json", "{}", "[1]", '{"method": "POST"}'])
def test_a_file_that_is_no_recording_is_refused(tmp_path: Path, content: str) -> None:
    """A file of another kind is refused when the emulator is made; so are both options at once."""
    path = tmp_path / "recording.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InvalidRequestError, match="replay"):
        Emulator(replay=path)
    with pytest.raises(InvalidRequestError, match="not both"):
        Emulator(replay=path, record=path)
