"""Answer with canned replies in this process, so that only the client is measured."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from modelslab_async.protocol.reply import HttpReply
from modelslab_async.transport.base import Incoming

URL = "http://127.0.0.1:1"
PICTURE = "https://picture.invalid/rocket.png"
_LINK = "https://files.invalid/generations/{}.mp4"
_META = {
    "base64": "no",
    "file_prefix": "a51498bf-0eee-44c5-a473-81cc867b288a",
    "fps": 16,
    "guidance_scale": 5,
    "id": None,
    "instant_response": "no",
    "negative_prompt": "low quality",
    "num_frames": 81,
    "num_inference_steps": 30,
    "opacity": 0.8,
    "output_type": "mp4",
    "padding_down": 10,
    "padding_right": 10,
    "portrait": "no",
    "prompt": "Space Station in space",
    "rescale": "yes",
    "resolution": 480,
    "sample_shift": 3,
    "scale_down": 6,
    "seed": 3644269522,
    "temp": "no",
    "track_id": None,
    "watermark": "no",
    "webhook": None,
}
"""The request that the service echoes in the sample of its documentation page."""
_MP4 = b"\0\0\0\x18ftypisom" + bytes(1000)


@attrs.define
class Canned:
    """A transport that accepts every job.

    A job runs until `release`. With `at_once` it succeeds in the reply to its submit.
    """

    at_once: bool = False
    submits: int = 0
    fetches: int = 0
    _released: bool = False

    def release(self) -> None:
        """Let all jobs succeed from now on."""
        self._released = True

    async def post(
        self,
        url: str,
        body: bytes,  # noqa: ARG002 - the signature of Transport
        *,
        timeout: float | None,  # noqa: ARG002
        own_connection: bool = False,  # noqa: ARG002
    ) -> HttpReply:
        """Return a reply as JSON."""
        await asyncio.sleep(0)
        if "/fetch/" in url:
            self.fetches += 1
            return _reply(self._released, url.rpartition("/")[2], {})
        self.submits += 1
        return _reply(self.at_once, str(self.submits), {"meta": {**_META, "seed": self.submits}})

    async def head(self, url: str, *, length: int, timeout: float | None) -> HttpReply:  # noqa: ARG002
        """Return the first bytes of an mp4."""
        await asyncio.sleep(0)
        return HttpReply(206, _MP4[:length])

    def get(self, *_: object, **__: object) -> AbstractAsyncContextManager[Incoming]:
        """Refuse: no benchmark saves files of this transport."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Do nothing, because nothing was opened."""


def _reply(done: bool, job_id: str, more: Mapping[str, Any]) -> HttpReply:
    link = [_LINK.format(job_id)]
    state = {"status": "success", "output": link} if done else {"status": "processing", "eta": 40, "future_links": link}
    return HttpReply(200, json.dumps({"id": int(job_id), **state, **more}).encode())
