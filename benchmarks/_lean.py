"""Serve the emulator's service with minimal HTTP, so that the server does not slow down the measured clients.

`python -m benchmarks._lean SPEED ETAS FAULTS LIMIT SEED` works like `python -m benchmarks._common`. The emulator's own
server spends at least as much time on a request as the measured clients do. A client that is faster than its server
sleeps, and is woken for each reply; a slower client finds several replies at once, which costs it less. This server
understands well-behaved clients only: whole requests with a length, one at a time on a connection.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any, Self

from benchmarks._common import PICTURE, answer_queries, service_options
from modelslab_async.emulator import Service, skeleton
from modelslab_async.emulator.files import file_response
from modelslab_async.emulator.replies import Action

_END = b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    def __init__(self, server: Lean) -> None:
        self._server, self._received = server, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(_END)
        if not end:
            return
        first, *lines = head.decode().split("\r\n")
        headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines)}
        if len(body) == int(headers.get("Content-Length", 0)):
            self._received = b""
            self._transport.write(self._server.reply(first.split(" ")[1], headers, body))


class Lean:
    """A minimal HTTP server of a `Service` that counts its requests."""

    def __init__(self, **options: Any) -> None:
        self.service, self.requests = Service(**options), 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self.started = loop.time()
        self._listening = await loop.create_server(lambda: _Connection(self), "127.0.0.1", backlog=1000)
        self.service.origin = "http://{}:{}".format(*self._listening.sockets[0].getsockname())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()

    def reply(self, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
        self.requests += 1
        now = asyncio.get_running_loop().time() - self.started
        if not body:
            return self._file(now, path.rpartition("/")[2], headers)
        answer = self.service.handle(now, path, body, PICTURE)
        assert answer.action is Action.REPLY, answer
        assert not answer.delay, answer
        return _reply(answer.status, {"Content-Type": "application/json"}, answer.body)

    def _file(self, now: float, name: str, headers: Mapping[str, str]) -> bytes:
        answer = self.service.file(now, name)
        response = file_response(answer, skeleton(answer.job.work) if answer.job else b"", headers)
        return _reply(response.status, response.headers, response.body)


def _reply(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {**headers, "Content-Length": len(body)}.items())
    return f"HTTP/1.1 {status} -\r\n{lines}\r\n".encode() + body


async def _serve(options: Mapping[str, Any]) -> None:
    async with Lean(**options) as server:
        await answer_queries(server)


if __name__ == "__main__":
    asyncio.run(_serve(service_options(sys.argv)))
