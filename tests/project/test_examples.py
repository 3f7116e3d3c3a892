"""Every example runs as it stands."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from modelslab_async.emulator import Emulator, skeleton

EXAMPLES = Path(__file__).parents[2] / "examples"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(24)


class Gallery(Emulator):
    """An emulator for which every URL is a picture."""

    async def fetch_picture(self, url: str) -> bytes:
        return PICTURE


@asynccontextmanager
async def serve_example(
    folder: Path, port: int, *arguments: str
) -> AsyncIterator[tuple[str, aiohttp.ClientSession, Emulator]]:
    """Run an example's server in another process, with an emulator in this one."""
    async with Gallery(speed=100, eta={"good": 1}, render=skeleton) as emulator, aiohttp.ClientSession() as session:
        settings = {
            "MODELSLAB_API_KEY": "any",
            "MODELSLAB_BASE_URL": emulator.url,
            "PORT": str(port),
            "TMPDIR": str(folder),
        }
        environment = {**os.environ, **settings, "PYTHONPATH": os.pathsep.join([str(EXAMPLES), str(EXAMPLES.parent)])}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *arguments),
            cwd=folder,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            await asyncio.wait_for(wait_until_served(url, session), 20)
            yield url, session, emulator
        finally:
            process.terminate()
            await process.communicate()


async def wait_until_served(url: str, session: aiohttp.ClientSession) -> None:
    while True:
        try:
            async with session.get(url):
                return
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)


async def test_fan_out_saves_each_video(tmp_path: Path) -> None:
    """Four prompts give four videos."""
    environment = {name: value for name, value in os.environ.items() if name != "MODELSLAB_API_KEY"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLES / "fan_out.py"), cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await asyncio.wait_for(process.communicate(), 40)
    assert (process.returncode, len(list(tmp_path.glob("*.mp4")))) == (0, 4)
    assert "not ModelsLab" in out.decode()


async def test_fastapi_minimal_returns_an_mp4(tmp_path: Path, unused_tcp_port: int) -> None:
    """An upload becomes an mp4. Text instead of a picture is refused with 422 and not charged."""
    arguments = ["-m", "uvicorn", "fastapi_minimal:app", "--port", str(unused_tcp_port), "--log-level", "warning"]
    async with serve_example(tmp_path, unused_tcp_port, *arguments) as (url, session, emulator):

        async def post(content: bytes) -> tuple[int, bytes]:
            form = aiohttp.FormData({"prompt": "zoom"})
            form.add_field("picture", content, filename="a.png", content_type="image/png")
            async with session.post(f"{url}/videos", data=form) as answer:
                return answer.status, await answer.read()

        status, video = await post(PICTURE)
        assert (status, video[4:8]) == (200, b"ftyp")
        assert (await post(b"text"))[0] == 422
        assert len(emulator.ledger.charges) == 1


async def test_aiohttp_app_streams_the_progress(tmp_path: Path, unused_tcp_port: int) -> None:
    """The progress of a job is streamed as events. An invalid request is refused with 422."""
    async with serve_example(tmp_path, unused_tcp_port, str(EXAMPLES / "aiohttp_app.py")) as (url, session, emulator):
        params: dict[str, Any] = {"prompt": "zoom", "init_image": "https://picture.invalid/a.png"}
        async with session.post(f"{url}/videos", json=params) as answer:
            stream = (await answer.read()).decode()
        assert stream.count("event: progress") >= 3
        assert '"state": "ready"' in stream.split("event: end")[1]
        for wrong in ({"prompt": ""}, {**params, "init_image": "/etc/passwd"}, {**params, "init_image": "a.png"}):
            async with session.post(f"{url}/videos", json=wrong) as answer:
                assert answer.status == 422
        assert len(emulator.ledger.charges) == 1


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
async def test_the_javascript_example_saves_a_video(tmp_path: Path) -> None:
    """A program in JavaScript starts the emulator, saves a video, meets the fault that it ordered, and pays once."""
    environment = {**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(EXAMPLES.parent)}
    process = await asyncio.create_subprocess_exec(
        *("node", str(EXAMPLES / "emulator.mjs")),
        cwd=tmp_path,
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 50)
    assert process.returncode == 0, errors
    assert (tmp_path / "rocket.mp4").read_bytes()[4:8] == b"ftyp"
    lines = out.decode().splitlines()
    assert lines[-2:] == ["fault: 429 Rate limit exceeded. Maximum 5 queued requests allowed.", "charged: $0.20"]
    assert b"not ModelsLab" in errors


@pytest.mark.skipif(shutil.which("curl") is None or shutil.which("sh") is None, reason="curl or sh is not installed")
async def test_the_curl_example_ends_a_job_by_hand() -> None:
    """With curl, a test sets up a wallet and a fault, submits, ends the job, and reads the ledger."""
    async with Emulator(render=skeleton, offline_pictures=True) as emulator:
        process = await asyncio.create_subprocess_exec(
            *("sh", str(EXAMPLES / "emulator.sh"), emulator.url), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        health, account, fault, page, end, ledger = out.decode().splitlines()
        assert emulator.ledger.track_ids() == ["mine"]
    assert "not ModelsLab" in health
    assert json.loads(account)["wallet"] == "0.40"
    assert json.loads(fault)["fault"] == "html_502"
    assert "502 gateway error" in page
    assert json.loads(end)["status"] == "success"
    assert json.loads(ledger)["total_usd"] == "0.20"


@pytest.mark.parametrize("name", ["fastapi_minimal.py", "aiohttp_app.py"])
def test_minimal_examples_are_short(name: str) -> None:
    """The minimal examples have fewer than 40 lines."""
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
