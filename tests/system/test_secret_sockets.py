"""No reporter of exceptions shows the key of a request whose connection breaks: real sockets, aiohttp's frames."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import http_writer
from aiohttp.base_protocol import BaseProtocol
from helpers.reporters import shown
from helpers.secret import holds_key, secret
from helpers.world import PNG
from multidict import CIMultiDict

from modelslab_async import Client, ModelsLabError, Timeouts, TransportError
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import encode_body
from modelslab_async.transport.aiohttp import AiohttpTransport, OneTimeBody


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def read_body(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    assert length
    return await reader.readexactly(int(length[1]))


async def reset_at_once(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    reset(writer)


async def reset_after_a_part(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(100)
    reset(writer)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(-1)


async def no_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(await read_body(reader))


async def broken_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + await read_body(reader))


async def echo_with_401(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = await read_body(reader)
    writer.write(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serve(answer: Answer) -> AsyncIterator[str]:
    """Answer each connection with *answer*, and yield the server's URL."""

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await answer(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(accepted, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


ANSWERS = [reset_at_once, reset_after_a_part, silent, no_http, broken_chunks, echo_with_401]


@pytest.mark.parametrize("size", [24, 1_000_000])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
async def test_no_reporter_shows_the_key_after_a_broken_connection(answer: Answer, size: int) -> None:
    """Neither the job's error nor the transport's own error, with aiohttp's frames, shows the key."""
    timeouts = Timeouts(connect=0.2, submit=0.2, fetch=0.2)
    transport = AiohttpTransport(timeouts)
    async with serve(answer) as url:
        async with Client(secret(), base_url=url, timeouts=timeouts) as client:
            job = client.submit(prompt="a castle", init_image=PNG + bytes(size))
            with pytest.raises(ModelsLabError) as caught:
                await job
        errors: list[BaseException] = [caught.value]
        try:
            await transport.post(f"{url}/x", encode_body({}, ApiKey(secret()), picture=bytes(size)), timeout=0.2)
        except TransportError as error:
            errors.append(error)
        await transport.aclose()
    texts = [(reporter, text) for error in errors for reporter, text in (await shown(error)).items()]
    assert len(errors) == 1 + (answer is not echo_with_401)
    assert [reporter for reporter, text in texts if holds_key(text)] == []


class BreakingTransport(asyncio.Transport):
    """A connection that breaks at the second write."""

    writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.writes == 2:
            raise OSError(f"{len(data)} bytes are too many")

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("size", [24, 1_000_000])
async def test_no_frame_below_aiohttp_gets_the_key(size: int) -> None:
    """What aiohttp writes to a connection hides itself, so headers and body are never joined to plain bytes."""
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.transport = BreakingTransport()
    writer = http_writer.StreamWriter(protocol, asyncio.get_running_loop())
    body = OneTimeBody(encode_body({}, ApiKey(secret()), picture=bytes(size)))
    await writer.write_headers("POST / HTTP/1.1", CIMultiDict())
    with pytest.raises(OSError, match="too many") as caught:
        await body.write(writer)
    texts = await shown(caught.value)
    assert "hidden bytes" in texts["standard_library"]
    assert [reporter for reporter, text in texts.items() if holds_key(text)] == []
