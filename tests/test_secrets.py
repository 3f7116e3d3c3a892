"""The key is in the body of requests, and in no output of any kind."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import pickle
import random
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from conftest import KEY, PNG, World, a_request

from modelslab_async import Client, Job, ModelsLabError, Timeouts
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.protocol.secret import ApiKey

ECHOES = [
    {"status": "error", "message": f"Invalid API Key {KEY}"},
    {"status": "error", "message": {KEY: [f"is no key: {KEY}"]}, "tip": KEY},
    {"status": "failed", "id": KEY, "message": f"failed for {KEY}"},
    {
        "status": "processing",
        "id": KEY,
        "eta": 0,
        "message": KEY,
        "fetch_result": f"https://a.invalid/{KEY}",
        "future_links": [f"https://a.invalid/{KEY}"],
        "meta": {"key": KEY, "nested": [{KEY: KEY}]},
    },
    {"status": KEY, "id": 7},
    {"status": "success", "id": 7, "output": [f"http://127.0.0.1:9/{KEY}.mp4"], "meta": {"key": KEY}},
    f"<html><title>{KEY}</title><body>502 for {KEY}</body></html>",
    f'{{"error": "no such key: {KEY[:-1]}',
]


@pytest.fixture
def everything_logged() -> Iterator[io.StringIO]:
    """All logs of all loggers, DEBUG included."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


@asynccontextmanager
async def echoing(reply: object) -> AsyncIterator[str]:
    """A server that answers every request with the key in it."""

    async def answer(request: web.Request) -> web.Response:
        if isinstance(reply, str):
            return web.Response(text=reply, status=502, content_type="text/html")
        return web.Response(text=json.dumps(reply).replace("/", "\\/"), content_type="application/json")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def all_that_shows(job: Job) -> str:
    """Whatever a program might print of a job."""
    shown = [repr(job), str(job), repr(job.request), repr({name: getattr(job, name, None) for name in Job.__slots__})]
    error = None if job.cancelled() else job.exception()
    if error is None:
        shown.append(repr(job.result()))
    else:
        shown += [repr(error), *traceback.format_exception(error), pickle.dumps(error).decode(errors="replace")]
    return "\n".join(shown)


@pytest.mark.parametrize("reply", ECHOES, ids=range(len(ECHOES)))
async def test_a_server_that_echoes_the_key(everything_logged: io.StringIO, reply: object) -> None:
    """Whatever field of a reply repeats the key: logs, reprs, exceptions and tracebacks do not."""
    timeouts = Timeouts(connect=0.2, submit=2, fetch=0.2, job=0.8)
    async with echoing(reply) as url, Client(api_key=KEY, base_url=url, timeouts=timeouts) as client:
        job = client.submit(a_request())
        await job.wait(timeout=1)
        shown = [repr(client), repr(vars(client)), repr(client._line), repr(client._books), repr(client._dispatcher)]
        with pytest.raises(ModelsLabError) as caught:
            await client.queue_depth()
        shown += traceback.format_exception(caught.value)
        await client.aclose(drain=False)
    shown += [all_that_shows(job), everything_logged.getvalue()]
    assert len(everything_logged.getvalue()) > 0
    assert KEY[:-1] not in "\n".join(shown)


async def test_a_whole_session_leaves_no_key_anywhere(everything_logged: io.StringIO, tmp_path: Path) -> None:
    """Successes, faults and files over real HTTP, logs at DEBUG, the event loop's debug mode: no key but in bodies."""
    asyncio.get_running_loop().set_debug(True)
    faults = [
        Rule(Fault.RESET_AFTER, times=1),
        Rule(Fault.HTML_502, times=1),
        Rule(Fault.TRUNCATED_JSON, times=1),
        Rule(Fault.JOB_FAILS, times=1),
        Rule(Fault.ERROR_500, on="fetch", times=1),
    ]
    async with Emulator(speed=400, eta={"good": 1}, faults=faults, render=skeleton) as emulator:
        async with Client(KEY, base_url=emulator.url, rng=random.Random(1), poll_cost=0.01) as client:
            jobs = [client.submit(a_request(init_image=PNG)) for _ in range(4)]
            await asyncio.wait([asyncio.create_task(job.wait()) for job in jobs])
            good = client.submit(a_request(init_image=PNG))
            await good.save(tmp_path / "video.mp4")
            with pytest.raises(ModelsLabError) as caught:
                client.submit(a_request(prompt="", extra={"key": KEY}))
        async with ClientSession() as session:
            pages = [await (await session.get(emulator.url + path)).text() for path in ("/", "/emulator/ledger")]
        seen = [repr(emulator.ledger), repr(vars(emulator.service)), *pages]
    files = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    shown = [*map(all_that_shows, [*jobs, good]), *seen, *files, str(caught.value), everything_logged.getvalue()]
    assert len(emulator.ledger.charges) == 5
    assert len(files) == 1
    assert KEY not in "\n".join(shown)


def test_the_wrapped_key() -> None:
    """repr, str, format and % hide it, pickle refuses it, and only `as_json` gives it."""
    key = ApiKey(KEY)
    assert KEY not in f"{key!r} {key} {key!s:>40} {[key]}"
    with pytest.raises(TypeError, match="environment"):
        pickle.dumps(key)
    assert json.loads(key.as_json()) == KEY


def test_a_key_of_digits() -> None:
    """It may come back as a number."""
    assert ApiKey("123456789").redact({"key": 123456789, "id": 12345678}) == {"key": "***", "id": 12345678}


@pytest.mark.parametrize(
    "reply",
    [
        b"%b",
        b"HTTP/1.1 %b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Echo%b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b",
    ],
)
async def test_a_reply_that_is_no_http_and_echoes_the_key(
    everything_logged: io.StringIO, tmp_path: Path, reply: bytes
) -> None:
    """A parser quotes what it cannot parse: that is told by its kind, in traceback and journal too."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        writer.write(reply % await reader.readexactly(length))
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with Client(api_key=KEY, base_url=url, journal=tmp_path / "jobs.db") as client:
            job = client.submit(a_request())
            await job.wait()
            rows = await client.history()
    assert KEY not in "\n".join([all_that_shows(job), repr(rows), everything_logged.getvalue()])
    assert "no JSON" in repr(job.exception()) or "the reply was lost" in repr(job.exception())


@pytest.mark.looptime
async def test_a_key_in_a_pictures_url_is_not_kept(world: Callable[..., World], tmp_path: Path) -> None:
    """The journal has neither the prompt's key nor the picture's."""
    async with world().client(journal=tmp_path / "jobs.db") as client:
        await client.generate(a_request(init_image=f"https://pictures.invalid/a.png?key={KEY}", prompt=f"a {KEY}"))
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert b"pictures.invalid" in written
    assert KEY.encode() not in written
