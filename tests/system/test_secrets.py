"""The API key is in the bodies of requests, and in no log, repr, exception, journal or file."""

from __future__ import annotations

import asyncio
import io
import json
import pickle
import random
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import ClientSession, web
from helpers.inside import inner_state_of, inside_shown
from helpers.secret import can_be_read, holds_key, secret
from helpers.world import KEY, PNG, MakeWorld, a_request

from modelslab_async import Client, Job, ModelsLabError, Timeouts
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import encode_body

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
    *({"status": "error", "message": b64encode(f"{'x' * before}{KEY}".encode()).decode()} for before in range(3)),
    {"status": "processing", "id": 7, "meta": {"key": urlsafe_b64encode(f"?{KEY}>".encode()).decode()}},
    {
        "status": "success",
        "id": 7,
        "output": [f"http://127.0.0.1:9/a.mp4?{KEY.replace('-', '%2d').replace('t', '%74')}"],
    },
]
"""Replies that repeat the key, in any field and in several encodings."""


class NoWaits(random.Random):
    """A source of randomness that makes every wait before a repetition end at once."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


@asynccontextmanager
async def echo_server(reply: object) -> AsyncIterator[str]:
    """Answer every request with *reply*, which holds the key. Yield the server's URL."""

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


def shown_of(job: Job) -> str:
    """Return everything that a program might print of a job, and the inside of the job."""
    shown = [repr(job), str(job), repr(job.request), repr(inner_state_of(job))]
    error = None if job.cancelled() else job.exception()
    if error is None:
        shown.append(repr(job.result()))
    else:
        shown += [repr(error), *traceback.format_exception(error), pickle.dumps(error).decode(errors="replace")]
    return "\n".join(shown)


@pytest.mark.parametrize("reply", ECHOES, ids=range(len(ECHOES)))
async def test_a_reply_that_repeats_the_key_does_not_show_it(everything_logged: io.StringIO, reply: object) -> None:
    """Whatever field of a reply repeats the key, no log, repr, exception or traceback shows it."""
    timeouts = Timeouts(connect=0.2, submit=2, fetch=0.2, job=0.8)
    async with echo_server(reply) as url, Client(KEY, base_url=url, timeouts=timeouts, rng=NoWaits()) as client:
        job = client.submit(a_request())
        await job.wait(timeout=1)
        shown = [repr(client), inside_shown(client)]
        with pytest.raises(ModelsLabError) as caught:
            await client.queue_depth()
        shown += traceback.format_exception(caught.value)
        await client.aclose(drain=False)
    shown += [shown_of(job), everything_logged.getvalue()]
    assert len(everything_logged.getvalue()) > 0
    assert not can_be_read(KEY[:-1], "\n".join(shown))


async def test_a_session_with_faults_does_not_show_the_key(everything_logged: io.StringIO, tmp_path: Path) -> None:
    """Over real HTTP, with DEBUG logs and asyncio's debug mode, the key is in request bodies only."""
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
        emulator_shows = [repr(emulator.ledger), repr(vars(emulator.service)), *pages]
    files = [path.read_bytes().decode(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    shown = [*map(shown_of, [*jobs, good]), *emulator_shows, *files, str(caught.value), everything_logged.getvalue()]
    assert len(emulator.ledger.charges) == 5
    assert len(files) == 1
    assert KEY not in "\n".join(shown)


@pytest.mark.parametrize(
    "reply",
    [
        b"%b",
        b"HTTP/1.1 %b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Echo%b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%b",
    ],
)
async def test_a_broken_reply_that_repeats_the_key_does_not_show_it(
    everything_logged: io.StringIO, tmp_path: Path, reply: bytes
) -> None:
    """The error names the kind of the failure, and never quotes the reply as aiohttp's parser does."""

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
    assert KEY not in "\n".join([shown_of(job), repr(rows), everything_logged.getvalue()])
    assert "no JSON" in repr(job.exception()) or "the reply was lost" in repr(job.exception())


@pytest.mark.looptime
async def test_the_journal_hides_the_key_in_requests(make_world: MakeWorld, tmp_path: Path) -> None:
    """If a prompt or a picture's URL holds the key, the journal's row does not."""
    async with make_world().client(journal=tmp_path / "jobs.db") as client:
        await client.generate(a_request(init_image=f"https://pictures.invalid/a.png?key={KEY}", prompt=f"a {KEY}"))
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert b"pictures.invalid" in written
    assert KEY.encode() not in written


def test_a_wrapped_key_hides_itself() -> None:
    """repr, str, format and % hide the key, pickle refuses it, and only `as_json` returns it."""
    key = ApiKey(KEY)
    assert KEY not in f"{key!r} {key} {key!s:>40} {[key]}"
    with pytest.raises(TypeError, match="environment"):
        pickle.dumps(key)
    assert json.loads(key.as_json()) == KEY


def test_a_key_of_digits_is_redacted_as_a_number_too() -> None:
    """A reply may repeat such a key as a number."""
    assert ApiKey("123456789").redact({"key": 123456789, "id": 12345678}) == {"key": "***", "id": 12345678}


def test_the_beginning_of_a_hidden_value_is_hidden_too() -> None:
    """Reporters such as structlog and rich show only the beginning of a long value."""
    body = encode_body({}, ApiKey(secret()))
    assert not holds_key(f"{body[:50]!r} {body[:50]!s} {body!r} {body!s} {[body[9:]]}")
    assert (body[0], bytes(body[:7])) == (ord("{"), b'{"key":')
    values = vars(ApiKey(secret()))
    assert not holds_key(repr([values, *(value[:50] for value in values.values() if isinstance(value, str | bytes))]))
