"""Where the emulator's links lead: behind a proxy, and to a second origin for files, which no key may reach."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from helpers.emulator_server import BALANCE, FETCH, KEY, ROCKET, UPLOAD, RunningEmulator, running_emulator

from modelslab_async import InvalidRequestError
from modelslab_async.emulator import Emulator
from modelslab_async.emulator.ledger import account_fingerprint


async def test_links_follow_the_public_url() -> None:
    """Behind a proxy, every link begins with the public URL, whatever the Host header says."""
    async with running_emulator(public_url="https://emulator.invalid/base/") as running:
        _, reply = await running.submit()
        assert reply["fetch_result"].startswith("https://emulator.invalid/base/api/v6/video/fetch/")
        assert reply["future_links"][0].startswith("https://emulator.invalid/base/generations/")


async def test_files_come_from_a_second_origin() -> None:
    """With files_origin, files and uploads have links to another port, which serves files only."""
    async with running_emulator(files_origin="http://127.0.0.1:0") as running:
        link = (await running.finish_job())[1]
        origin = link.partition("/generations")[0]
        assert origin.startswith("http://127.0.0.1:")
        assert origin != running.emulator.url
        uri = "data:image/jpeg;base64," + base64.b64encode(ROCKET).decode()
        (upload,) = (await running.post(UPLOAD, base64_string=uri))[1]["output"]
        assert upload.startswith(f"{origin}/temp/")
        assert await running.get(upload) == (200, ROCKET)
        async with running.session.post(origin + BALANCE, json={"key": "any"}) as response:
            assert (response.status, "not ModelsLab" in response.headers["X-Emulator"]) == (404, True)
        assert (await running.get(f"{origin}/"))[0] == 404


async def leaks_after(running: RunningEmulator, method: str, url: str, **options: Any) -> list[dict[str, Any]]:
    """Send a request; return the keys that the ledger reports."""
    async with running.session.request(method, url, **options):
        pass
    content = (await running.get(f"{running.emulator.url}/emulator/ledger"))[1]
    assert KEY.encode() not in content
    leaks: list[dict[str, Any]] = json.loads(content)["leaked_keys"]
    return leaks


@pytest.mark.parametrize("files_origin", ["http://127.0.0.1:0", None])
async def test_a_key_that_comes_for_a_file_is_reported(files_origin: str | None) -> None:
    """A client that sends its key to the host of files is seen in the ledger: where the key was, and whose it is."""
    async with running_emulator(files_origin=files_origin) as running:
        link = (await running.finish_job())[1]
        assert await leaks_after(running, "GET", link, headers={"Range": "bytes=0-9", "User-Agent": "any"}) == []
        account = account_fingerprint(KEY)
        cases: list[tuple[dict[str, Any], str, str | None]] = [
            ({"params": {"key": KEY}}, "query key", account),
            ({"params": {"download": KEY}}, "query download", account),
            ({"headers": {"Authorization": f"Bearer {KEY}"}}, "header Authorization", account),
            ({"headers": {"X-Mine": KEY}}, "header X-Mine", account),
            ({"headers": {"Authorization": "Bearer unknown"}}, "header Authorization", None),
            ({"json": {"key": KEY}}, "body key", account),
        ]
        for number, (options, where, whose) in enumerate(cases, 1):
            leaks = await leaks_after(running, "GET", link, **options)
            assert len(leaks) == number
            assert (leaks[-1]["where"], leaks[-1]["account"]) == (where, whose)


async def test_a_key_that_is_posted_to_the_files_is_reported() -> None:
    """Following `fetch_result` or any other link to the second origin with the key is seen, too."""
    async with running_emulator(files_origin="http://127.0.0.1:0") as running:
        link = (await running.finish_job())[1]
        url = link.partition("/generations")[0] + FETCH + "1"
        (leak,) = await leaks_after(running, "POST", url, json={"key": KEY})
        assert (leak["where"], leak["path"]) == ("body key", FETCH + "1")


async def test_no_key_comes_with_downloads_of_the_client(tmp_path: Any) -> None:
    """modelslab_async itself sends its key to no file."""
    from modelslab_async import Client  # noqa: PLC0415

    async with running_emulator(files_origin="http://127.0.0.1:0") as running:
        async with Client(KEY, base_url=running.emulator.url, poll_cost=0.01) as client:
            await client.submit(prompt="zoom in", init_image=ROCKET, num_frames=8).save(tmp_path / "a.mp4")
        assert running.emulator.ledger.leaks == []


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"public_url": "emulator"}, "public_url"),
        ({"files_origin": "ftp://files.invalid"}, "files_origin"),
        ({"files_origin": "http://files.invalid/?a=b"}, "files_origin"),
        ({"offline_pictures": 1}, "offline_pictures"),
        ({"deterministic": "yes"}, "deterministic"),
        ({"render": "mp4"}, "render"),
        ({"keep": 0}, "keep"),
    ],
)
def test_a_wrong_option_of_the_server_is_refused(options: dict[str, Any], field: str) -> None:
    """A wrong option is refused when the emulator is made."""
    with pytest.raises(InvalidRequestError, match=field):
        Emulator(**options)
