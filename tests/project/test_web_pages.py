"""The pages for web backends: each application serves a visitor over HTTP, by a real server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import aiohttp
import pytest

from benchmarks._backends import MATRIX, Deployment, Served, Visitor, a_session, applications, emulator, submit

ROOT = Path(__file__).parents[2]
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("web.md", "deploys.md")]
FRAMEWORKS = sorted({served.framework for served in MATRIX})


def first_server_of(framework: str) -> Served:
    """Return the first installed way to serve a framework. Skip the test if there is none."""
    for served in MATRIX:
        if served.framework == framework and served.is_installed:
            return served
    pytest.skip(f"{framework} is not installed: python -m pip install -e '.[bench]'")


def test_every_block_is_run() -> None:
    """Each Python block of the pages is a file of one of the applications, and each framework has an application."""
    blocks = [block for page in PAGES for block in re.findall(r"```python\n", page)]
    assert len(blocks) == len(applications())
    assert {*applications()} == {"videos.py", *(f"app_{framework}.py" for framework in FRAMEWORKS)}


@pytest.mark.parametrize("framework", FRAMEWORKS)
async def test_an_application_serves_a_visitor(framework: str, tmp_path: Path) -> None:
    """A form that is sent twice is paid for once, its stream ends, deliveries arrive, and errors are for the public."""
    async with emulator(speed=20) as service, a_session() as session:
        deployment = Deployment(first_server_of(framework), tmp_path, service.url, workers=1)
        url = deployment.url
        try:
            await deployment.start()
            for _ in range(2):
                await submit(session, url, "order-1001")
            visitor = Visitor()
            await asyncio.wait_for(visitor.watch(session, f"{url}/videos/order-1001/events"), 30)
            assert ([end["error"] for end in visitor.ends], visitor.refusal) == ([None], 204)
            assert await _public_error(session.get(f"{url}/videos/unknown/events")) == (404, "not_found")
            another = {"id": "order-1001", "prompt": "another", "picture": "https://pictures.invalid/a.png"}
            assert await _public_error(session.post(f"{url}/videos", json=another)) == (409, "taken")
            for wrong in ({"id": "../evil"}, {"id": "a" * 65}, {"picture": "/etc/passwd"}, {"picture": "a.png"}):
                order = {**another, "id": "order-1002", **wrong}
                assert await _public_error(session.post(f"{url}/videos", json=order)) == (422, "refused")
            async with session.post(f"{url}/hooks/forged.token", data=b"{}") as answer:
                assert answer.status == 404
        finally:
            await deployment.kill()
        assert len(service.ledger.charges) == 1
    assert "Traceback" not in deployment.log


async def _public_error(request: aiohttp.client._RequestContextManager) -> tuple[int, str]:
    async with request as answer:
        shown = json.loads(await answer.text())
        assert {*shown} == {"code", "message"}
        return answer.status, shown["code"]


async def test_the_file_of_the_first_application_is_sent(tmp_path: Path) -> None:
    """FastAPI's application waits for the video, and sends it."""
    async with emulator(speed=20) as service, a_session() as session:
        deployment = Deployment(first_server_of("fastapi"), tmp_path, service.url, workers=1)
        try:
            await deployment.start()
            await submit(session, deployment.url, "order-1001")
            async with session.get(f"{deployment.url}/videos/order-1001/file") as answer:
                assert (answer.status, (await answer.read())[4:8]) == (200, b"ftyp")
        finally:
            await deployment.kill()
    assert [file.name for file in (tmp_path / "videos").glob("*.mp4")] == ["order-1001.mp4"]
