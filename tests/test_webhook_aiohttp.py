"""A webhook as a handler of aiohttp.web: a real server on loopback, in real time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import attrs
import pytest
from aiohttp import web
from helpers.webhooks import RecordingListener, a_webhook

from modelslab_async.webhook import Webhook


def path_of(webhook: Webhook) -> str:
    return webhook.url("a", "").removeprefix("https://hooks.invalid")


@attrs.frozen
class Server:
    """A webhook behind aiohttp, and the deliveries that it passed on."""

    port: int
    webhook: Webhook
    received: list[tuple[str, str | None]]

    async def send(self, *packets: bytes, disconnects: bool = False) -> bytes:
        """Send *packets* on a new connection. Return the first line of the answer, or b"" if there is none.

        With *disconnects*, reset the connection instead of waiting for an answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for packet in packets:
            writer.write(packet)
            await writer.drain()
        if disconnects:
            writer.transport.abort()
        answer = b"" if disconnects else await reader.readline()
        writer.close()
        return answer.strip()


@pytest.fixture
async def server(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """Serve a webhook on loopback, in real time. A body may take 0.2 s."""
    monkeypatch.setattr("modelslab_async.webhook.MAX_BODY_SECONDS", 0.2)
    webhook, listener, app = a_webhook(), RecordingListener(), web.Application()
    webhook.register(listener, "")
    app.router.add_post("/modelslab/{name:.+}", webhook.aiohttp)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Server(runner.addresses[0][1], webhook, listener.received)
    await runner.cleanup()


def post_head(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


FORGED = "/modelslab/x.y"
GZIP = ("Content-Encoding: gzip", "Content-Length: 10")


async def test_a_delivery_is_answered(server: Server) -> None:
    """A slash at the end of the path and a query make no difference."""
    path = path_of(server.webhook)
    for variant in (path, f"{path}/", f"{path}?", f"{path}/?a=b"):
        assert await server.send(post_head(variant, "Content-Length: 9"), b'{"id": 7}') == b"HTTP/1.1 200 OK"
    assert server.received == [("a", "7")] * 4


async def test_the_body_of_a_forged_delivery_is_not_waited_for(server: Server) -> None:
    """A wrong token is answered although its body never comes; a valid one gets 408 after the bound."""
    assert await server.send(post_head(FORGED, "Content-Length: 9")) == b"HTTP/1.1 404 Not Found"
    assert (
        await server.send(post_head(path_of(server.webhook), "Content-Length: 9"), b"{")
        == b"HTTP/1.1 408 Request Timeout"
    )
    assert server.received == []


@pytest.mark.parametrize("path", [FORGED, path_of(a_webhook())], ids=["forged", "valid"])
@pytest.mark.parametrize(
    ("packets", "disconnects"),
    [
        ([post_head("{}", *GZIP) + b"0123456789"], False),
        ([post_head("{}", "Content-Length: 1000"), b"{"], True),
        ([post_head("{}", "Transfer-Encoding: chunked"), b"3\r\n{"], True),
    ],
    ids=["broken gzip", "disconnects", "disconnects in a chunk"],
)
async def test_a_broken_body_is_no_error_of_the_server(
    server: Server, caplog: pytest.LogCaptureFixture, path: str, packets: list[bytes], disconnects: bool
) -> None:
    """A body that cannot be read, or whose sender disconnects, causes neither an error nor a warning in the log."""
    answer = await server.send(
        *(packet.replace(b"{}", path.encode(), 1) for packet in packets), disconnects=disconnects
    )
    assert await server.send(post_head(FORGED)) == b"HTTP/1.1 404 Not Found"
    assert answer.split(b" ")[1:2] in ([[], [b"400"], [b"404"], [b"408"]])
    assert server.received == []
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("packet", [b"3\r\nabcdef\r\n", b"zz\r\n", b"-1\r\n\r\n"])
async def test_a_broken_chunk_is_refused(server: Server, packet: bytes) -> None:
    """A broken chunk is refused by aiohttp itself, or by the bound on the body's time."""
    answer = await server.send(post_head(path_of(server.webhook), "Transfer-Encoding: chunked"), packet)
    assert answer.split(b" ")[1] in (b"400", b"408")
    assert server.received == []
