"""Every example runs as it stands."""

from __future__ import annotations

import asyncio
import os
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
        async with session.post(f"{url}/videos", json={"prompt": ""}) as answer:
            assert answer.status == 422
        assert len(emulator.ledger.charges) == 1


@pytest.mark.parametrize("name", ["fastapi_minimal.py", "aiohttp_app.py"])
def test_minimal_examples_are_short(name: str) -> None:
    """The minimal examples have fewer than 40 lines."""
    assert len((EXAMPLES / name).read_text().splitlines()) < 40
