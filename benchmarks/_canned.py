"""A service of canned replies in this process, so that what is measured is the client and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from modelslab_async.protocol.body import HttpReply
from modelslab_async.transport import Incoming

URL = "http://127.0.0.1:1"
PICTURE = "https://picture.invalid/rocket.png"
_LINK = "https://files.invalid/generations/{}.mp4"
_META = {
    "prompt": "the rocket stands in the evening light, zoom in",
    "model_id": "wan2.2",
    "resolution": 480,
    "num_frames": 81,
    "num_inference_steps": 20,
    "fps": 16,
    "portrait": "no",
    "init_image": PICTURE,
    "base64": "no",
    "temp": "no",
    "webhook": None,
    "file_prefix": "5f0c6e3e",
}
"""About what the service echoes."""
_MP4 = b"\0\0\0\x18ftypisom" + bytes(1000)


@attrs.define
class Canned:
    """Takes every job. It then runs until `release`; with `at_once` it is done in the reply to its submit."""

    at_once: bool = False
    submits: int = 0
    fetches: int = 0
    _released: bool = False

    def release(self) -> None:
        """All jobs are done from now on."""
        self._released = True

    async def post(self, url: str, body: bytes, *, timeout: float | None) -> HttpReply:  # noqa: ARG002 - a Transport's
        """A reply, as JSON."""
        await asyncio.sleep(0)
        if "/fetch/" in url:
            self.fetches += 1
            return _said(self._released, url.rpartition("/")[2], {})
        self.submits += 1
        return _said(self.at_once, str(self.submits), {"meta": {**_META, "seed": self.submits}})

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:  # noqa: ARG002
        """The start of an mp4."""
        await asyncio.sleep(0)
        return HttpReply(206, _MP4[:length])

    def get(self, *_: object, **__: object) -> AbstractAsyncContextManager[Incoming]:
        """No files are saved here."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Nothing was opened."""


def _said(done: bool, job_id: str, more: Mapping[str, Any]) -> HttpReply:
    link = [_LINK.format(job_id)]
    state = {"status": "success", "output": link} if done else {"status": "processing", "eta": 40, "future_links": link}
    return HttpReply(200, json.dumps({"id": int(job_id), **state, **more}).encode())
