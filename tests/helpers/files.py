"""A server of video files that misbehaves as a test needs, and a client to download them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager

import attrs
from aiohttp import web

from modelslab_async import Client

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def an_mp4(size_bytes: int) -> bytes:
    """Make the boxes of a whole mp4 with *size_bytes* of random content."""
    content = random.Random(size_bytes).randbytes(size_bytes)
    boxes = ((b"ftyp", b"isom\0\0\2\0isom"), (b"moov", b""), (b"mdat", content))
    return b"".join((8 + len(data)).to_bytes(4) + kind + data for kind, data in boxes)


MOVIE = an_mp4(3_000_000)


@attrs.define
class Files:
    """Serve a movie under every name, and list the requests with their ranges.

    "page" is a page that claims to be a video, and "cut" is the movie cut short.
    """

    breaks: int = 0
    """The number of requests that break off in the middle."""
    validator: Mapping[str, str] = attrs.field(factory=lambda: {"ETag": '"one"'})
    dead: tuple[str, ...] = ()
    """Names that answer 404."""
    ignores_ranges: bool = False
    splices: bool = False
    """Whether a range is answered with the end of another file, whatever If-Range says."""
    movie: bytes = MOVIE
    requests: list[tuple[str, str | None]] = attrs.field(factory=list[tuple[str, str | None]])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name, wanted = request.match_info["name"], request.headers.get("Range")
        self.requests.append((name, wanted))
        if name in self.dead:
            return web.Response(status=404)
        if name == "page":
            return web.Response(text="<html>not found</html>", content_type="video/mp4")
        if name == "cut":
            return web.Response(body=self.movie[:-5], content_type="video/mp4")
        first = int(wanted[6:-1]) if wanted and not self.ignores_ranges else 0
        body = self.movie[first:]
        headers = {**self.validator, "Content-Length": str(len(body))}
        if first and self.splices:
            body, headers = bytes(len(body)), {**headers, "ETag": '"two"'}
        if first:
            headers["Content-Range"] = f"bytes {first}-{len(self.movie) - 1}/{len(self.movie)}"
        response = web.StreamResponse(status=206 if first else 200, headers=headers)
        await response.prepare(request)
        if self.breaks:
            self.breaks -= 1
            await response.write(body[: len(body) // 2])
            disconnect(request)
            return response
        await response.write(body)
        return response


def disconnect(request: web.Request) -> None:
    """Close the connection of a request."""
    assert request.transport is not None
    request.transport.close()


async def answer_two_thirds(request: web.Request) -> web.StreamResponse:
    """Announce the whole movie, and break off after 2,000,000 bytes."""
    response = web.StreamResponse(headers={"ETag": '"one"', "Content-Length": str(len(MOVIE))})
    await response.prepare(request)
    await response.write(MOVIE[:2_000_000])
    disconnect(request)
    return response


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[str]:
    """Run an application on a free port, and yield its URL."""
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[tuple[Client, str]]:
    """Run a server with this answer for every name, and yield a client and the server's URL."""
    app = web.Application()
    app.router.add_get("/{name}", answer)
    async with running(app) as url, Client(api_key="any", base_url=url) as client:
        yield client, url
