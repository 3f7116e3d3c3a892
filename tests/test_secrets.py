"""The key is in the body of requests, and in no output of any kind."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import logging
import os
import pickle
import random
import re
import socket
import struct
import traceback
import warnings
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from time import perf_counter
from typing import Any
from urllib.parse import quote, unquote

import attrs
import pytest
from _reporters import REPORTERS, chain, shown
import aiohttp
from aiohttp import ClientSession, web
from conftest import KEY, PNG, World, a_request
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from modelslab_async import (
    AuthenticationError,
    BeyondDocumentationWarning,
    Budget,
    Client,
    InvalidRequestError,
    InvalidVideoError,
    Job,
    JobRecord,
    JournalError,
    ModelsLabError,
    TransportError,
    Timeouts,
)
from modelslab_async.arguments import check_key
from modelslab_async.batch import open_batch, read_manifest, read_results, run_batch
from modelslab_async.batch.report import write_report
from modelslab_async.cli.app import app
from modelslab_async.emulator import Emulator, Fault, InProcess, Rule, Service, skeleton
from modelslab_async.errors import Problem
from modelslab_async.protocol.body import HttpReply, Malformed, read
from modelslab_async.protocol.secret import ApiKey, SecretBytes
from modelslab_async.protocol.wire import encode_body
from modelslab_async.transport import AiohttpTransport, OneTimeBody

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


# --- what reporters show of an exception ---

VARIABLE = "A_KEY_LIKE_THE_SERVICE_S"


@pytest.fixture(autouse=True)
def _a_key_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "xGsN7d4EwqT2b8rJ0pLkVm5cZyHfA1uQ9oIeXnRtSgKjDvWhMaBiUl3C6F0P")
    monkeypatch.delenv("MODELSLAB_API_KEY", raising=False)


def secret() -> str:
    """A key that is in no variable of a test: the tests' own frames are shown too."""
    return os.environ[VARIABLE]


def holds_key(text: str) -> bool:
    """Whether it can be read in a text, whole or cut short."""
    return secret()[:12] in text


def client_of(*rules: Rule, keys: list[str] | None = None, **options: Any) -> Client:
    """A client of an emulator in this process, on virtual time."""
    transport = InProcess(Service(eta={"good": 1}, faults=rules, keys=keys))
    timeouts = Timeouts(submit=5, fetch=5, link=5, job=300)
    return Client(secret(), **{"transport": transport, "rng": random.Random(1), "timeouts": timeouts, **options})


REQUEST = {"prompt": "a castle", "init_image": "https://pictures.invalid/a.png"}
REFUSED = Rule(Fault.ERROR_500, on="submit")
Failure = Callable[[Path], Awaitable[object]]


async def generate(*rules: Rule, **options: Any) -> None:
    async with client_of(*rules, **options) as client:
        await client.generate(REQUEST)


async def save(path: Path, *rules: Rule) -> None:
    async with client_of(*rules) as client:
        await client.submit(REQUEST).save(path)


async def call(
    name: str, *arguments: Any, rule: Rule | None = None, keys: list[str] | None = None, **named: Any
) -> None:
    journal = named.pop("journal", None)
    async with client_of(*([rule] if rule else []), keys=keys, journal=journal) as client:
        made = getattr(client, name)(*arguments, **named)
        if inspect.isawaitable(made):
            await made


async def opened(**options: Any) -> None:
    async with client_of(**options):
        pass


async def opened_with_quotes() -> None:
    async with Client(f'"{secret()}"'):
        pass


async def opened_with_two_lines() -> None:
    async with Client(f"{secret()}\n{secret()}"):
        pass


async def opened_with_a_part() -> None:
    async with Client(secret()[:7]):
        pass


async def opened_without() -> None:
    async with Client():
        pass


async def account_of_its_own() -> None:
    async with client_of() as client:
        await client.account(secret(), max_in_flight=3)


async def account_of_another() -> None:
    async with client_of() as client:
        await client.account(secret()[::-1], max_in_flight=0)


async def after_the_end() -> None:
    client = client_of()
    await client.aclose()
    client.submit(REQUEST)


async def in_another_loop() -> None:
    client = client_of()
    async with client:
        await asyncio.to_thread(asyncio.run, client.balance())


async def detached() -> None:
    client = client_of()
    job = client.submit(REQUEST)
    await asyncio.sleep(2)
    await client.aclose(drain=False)
    await job


FAILURES: dict[str, Failure] = {
    "submit refused": lambda _: generate(keys=["another"]),
    "submit fails": lambda _: generate(Rule(Fault.UNAVAILABLE_503)),
    "submit may be taken": lambda _: generate(REFUSED),
    "submit reset": lambda _: generate(Rule(Fault.RESET_BEFORE)),
    "submit not connected": lambda _: generate(Rule(Fault.REFUSED)),
    "submit timed out": lambda _: generate(Rule(Fault.STALL)),
    "submit answered by a page": lambda _: generate(Rule(Fault.HTML_502)),
    "submit answered by half a reply": lambda _: generate(Rule(Fault.TRUNCATED_JSON)),
    "submit beyond the budget": lambda _: call_submit_of_a_budget(),
    "submit invalid": lambda _: call("submit", prompt="", init_image="none.png", seed="x"),
    "submit of an unknown parameter": lambda _: call("submit", REQUEST, colour=1),
    "submit beyond the documentation": lambda _: call("submit", REQUEST, num_inference_steps=30),
    "submit after the end": lambda _: after_the_end(),
    "check": lambda _: call("check", prompt="", init_image="none.png"),
    "generate invalid": lambda _: call("generate", prompt="", init_image="none.png"),
    "job failed": lambda _: generate(Rule(Fault.JOB_FAILS)),
    "job timed out": lambda _: generate(timeouts=Timeouts(job=1)),
    "job left": lambda _: detached(),
    "job whose links do not read": lambda _: generate(Rule(Fault.HTML_AS_MP4)),
    "attach refused": lambda _: attached(keys=["another"]),
    "attach that is not connected": lambda _: attached(Rule(Fault.RESET_BEFORE, on="fetch"), timeouts=Timeouts(job=5)),
    "attach without an id": lambda _: call("attach", " "),
    "account invalid": lambda _: account_of_another(),
    "account that is this one": lambda _: account_of_its_own(),
    "account of a short key": lambda _: call("account", "short"),
    "account without a key": lambda _: call("account", ""),
    "find without a journal": lambda _: call("find", "x"),
    "history without a journal": lambda _: call("history"),
    "recover without a journal": lambda _: call("recover"),
    "recover refused": lambda tmp: call("recover", search=True, keys=["another"], journal=tmp / "jobs.db"),
    "recover reset": lambda tmp: call(
        "recover", search=True, rule=Rule(Fault.RESET_BEFORE, on="call"), journal=tmp / "jobs.db"
    ),
    "resubmit": lambda tmp: call("resubmit", [a_record()], journal=tmp / "jobs.db"),
    "resolve of two minds": lambda tmp: call("resolve", "x", journal=tmp / "jobs.db"),
    "resolve unknown id": lambda tmp: call("resolve", "x", id="7", journal=tmp / "jobs.db"),
    "resolve unknown ref": lambda tmp: call("resolve", "x", lost=True, journal=tmp / "jobs.db"),
    "upload of nothing": lambda _: call("upload", b""),
    "upload of no file": lambda _: call("upload", "none.png"),
    "upload refused": lambda _: call("upload", PNG, keys=["another"]),
    "upload reset": lambda _: call("upload", PNG, rule=Rule(Fault.RESET_BEFORE, on="call")),
    "download that is not there": lambda tmp: call("download", "https://a.invalid/a.mp4", tmp / "a.mp4"),
    "download to a folder": lambda tmp: call("download", "https://a.invalid/a.mp4", tmp),
    "download bounded by nothing": lambda tmp: call("download", "https://a.invalid/a", tmp / "a.mp4", max_bytes=0),
    "save to a folder": lambda tmp: save(tmp),
    "save that is cut short": lambda tmp: save(tmp / "a.mp4", Rule(Fault.CUT_MP4)),
    "Client of a bad number": lambda _: opened(max_in_flight=0),
    "Client of a bad URL": lambda _: opened(base_url="http://modelslab.com"),
    "Client of a bad proxy": lambda _: opened(proxy="socks5://localhost"),
    "Client of a bad budget": lambda _: opened(budget=5),
    "Client of bad timeouts": lambda _: opened(timeouts=5, poll_cost="x"),
    "Client of an unknown argument": lambda _: opened(colour=1),
    "Client of a journal that cannot be opened": lambda tmp: opened(journal=tmp),
    "Client without a key": lambda _: opened_without(),
    "Client of a key with quotes": lambda _: opened_with_quotes(),
    "Client of a key of two lines": lambda _: opened_with_two_lines(),
    "Client of a short key": lambda _: opened_with_a_part(),
    **{
        f"{name} {rule.fault.name}": lambda _, name=name, rule=rule: call(name, rule=rule)
        for name in ("balance", "queue_depth")
        for rule in (
            Rule(Fault.ERROR_500, on="call"),
            Rule(Fault.RESET_BEFORE, on="call"),
            Rule(Fault.STALL, on="call"),
            Rule(Fault.HTML_502, on="call"),
        )
    },
    "balance refused": lambda _: call("balance", keys=["another"]),
}
"""Each public call, at each way in which it fails."""


async def call_submit_of_a_budget() -> None:
    async with client_of(budget=Budget(usd=0)) as client:
        client.submit(REQUEST)


async def attached(*rules: Rule, **options: Any) -> None:
    async with client_of(*rules, **options) as client:
        await client.attach("7")


def a_record() -> JobRecord:
    return JobRecord(account="a", ref="x", owner="o", created_at=1.0, request={"prompt": "a"}, price=Decimal("0.2"))


@pytest.mark.looptime
@pytest.mark.parametrize("name", FAILURES)
async def test_no_reporter_shows_the_key(name: str, tmp_path: Path) -> None:
    """Whatever fails: no reporter that shows local variables, causes or contexts shows the key."""
    with pytest.raises((ModelsLabError, TypeError)) as caught:
        await FAILURES[name](tmp_path)
    what = await shown(caught.value)
    assert len(what["sentry"]) > 1000
    assert [reporter for reporter, text in what.items() if holds_key(text)] == []


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def received(reader: asyncio.StreamReader) -> bytes:
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
    writer.write(await received(reader))


async def broken_chunks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + await received(reader))


async def echo_with_401(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    body = await received(reader)
    writer.write(b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(body) + body)


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[str]:
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


@pytest.mark.parametrize("picture", [PNG, PNG + bytes(1_000_000)], ids=["small", "large"])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
async def test_no_reporter_shows_the_key_of_a_request_over_a_socket(answer: Answer, picture: bytes) -> None:
    """However a connection breaks: neither the job's error nor the transport's own, with aiohttp's frames, shows it."""
    timeouts = Timeouts(connect=0.2, submit=0.2, fetch=0.2)
    transport = AiohttpTransport(timeouts)
    async with served(answer) as url:
        async with Client(secret(), base_url=url, timeouts=timeouts) as client:
            job = client.submit(prompt="a castle", init_image=picture)
            with pytest.raises(ModelsLabError) as caught:
                await job
        errors: list[BaseException] = [caught.value]
        try:
            await transport.post(f"{url}/x", encode_body({}, ApiKey(secret()), picture=picture), timeout=0.2)
        except TransportError as error:
            errors.append(error)
        await transport.aclose()
    what = [(reporter, text) for error in errors for reporter, text in (await shown(error)).items()]
    assert len(errors) == 1 + (answer is not echo_with_401)
    assert [reporter for reporter, text in what if holds_key(text)] == []


class Broken(asyncio.Transport):
    """A connection that fails when it is written to."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        raise OSError(f"{len(data)} bytes are too many")

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("size", [24, 1_000_000])
async def test_no_frame_below_aiohttp_is_given_the_key(size: int) -> None:
    """What aiohttp writes to a connection hides itself: headers and body are not joined to plain bytes."""
    protocol = aiohttp.base_protocol.BaseProtocol(asyncio.get_running_loop())
    protocol.transport = Broken()
    writer = aiohttp.http_writer.StreamWriter(protocol, asyncio.get_running_loop())
    body = OneTimeBody(encode_body({}, ApiKey(secret()), picture=bytes(size)))
    protocol.transport.write = lambda _: None  # type: ignore[method-assign]
    await writer.write_headers("POST / HTTP/1.1", CIMultiDict())
    writer.send_headers()
    del protocol.transport.write
    with pytest.raises(OSError, match="too many") as caught:
        await body.write(writer)
    assert [reporter for reporter, text in (await shown(caught.value)).items() if holds_key(text)] == []


# --- the key where it does not belong ---


async def made_by(client: Client, made: object) -> None:
    """Wait for whatever a call gives."""
    if isinstance(made, Job):
        await made
    elif inspect.isawaitable(made):
        await made


Mistake = Callable[[Client, Path], Awaitable[object]]


async def awaited(job: Job) -> None:
    await job


async def account_with_a_bad_number(client: Client) -> None:
    await client.account(secret(), budget=secret())  # type: ignore[arg-type]


REFUSED_MISTAKES: dict[str, Mistake] = {
    "request": lambda client, _: awaited(client.submit(secret())),  # type: ignore[arg-type]
    "request of generate": lambda client, _: client.generate(secret()),  # type: ignore[arg-type]
    "track_id": lambda client, _: awaited(client.submit(REQUEST, track_id=secret())),
    "within a track_id": lambda client, _: awaited(client.submit(REQUEST, track_id=f"scene-{secret()}-1")),
    "track_id of generate": lambda client, _: client.generate(REQUEST, track_id=secret()),
    "name of a parameter": lambda client, _: awaited(client.submit({**REQUEST, secret(): 1})),
    "name of a keyword": lambda client, _: client.generate(REQUEST, **{secret(): 1}),
    "key of a request": lambda client, _: awaited(client.submit({**REQUEST, "key": secret()})),
    "seed": lambda client, _: awaited(client.submit(REQUEST, seed=secret())),
    "fps and prompt": lambda client, _: awaited(client.submit(prompt=secret(), init_image=PNG, fps=secret())),
    "model_id": lambda client, _: awaited(client.submit(REQUEST, model_id=secret())),
    "resolution": lambda client, _: awaited(client.submit(REQUEST, resolution=f"a resolution of {'x' * 30}{secret()}")),
    "picture": lambda client, _: awaited(client.submit(prompt="a", init_image=secret())),
    "picture in a folder": lambda client, tmp: awaited(client.submit(prompt="a", init_image=tmp / secret() / "a.png")),
    "picture of another scheme": lambda client, _: awaited(client.submit(prompt="a", init_image=f"ftp://{secret()}")),
    "data URI": lambda client, _: awaited(client.submit(prompt="a", init_image=f"data:{secret()}")),
    "base64": lambda client, _: awaited(client.submit(prompt="a", init_image=secret(), base64=True)),
    "webhook that is no URL": lambda client, _: awaited(client.submit(REQUEST, webhook=secret())),
    "extra that is no mapping": lambda client, _: awaited(client.submit(REQUEST, extra=secret())),
    "extra that is no JSON": lambda client, _: awaited(client.submit(REQUEST, extra={secret(): object()})),
    "check": lambda client, _: made_by(client, client.check(REQUEST, track_id=secret(), seed=secret())),
    "attach": lambda client, _: awaited(client.attach(secret())),
    "find": lambda client, _: client.find(secret()),
    "recover": lambda client, _: client.recover(["a", secret()]),
    "recover just": lambda client, _: client.recover(secret()),
    "history": lambda client, _: client.history(secret()),  # type: ignore[arg-type]
    "resubmit": lambda client, _: client.resubmit([a_record()._replace(ref=secret())]),
    "resolve": lambda client, _: client.resolve(secret(), lost=True),
    "resolve to": lambda client, _: client.resolve("x", id=secret()),
    "resolve of two minds": lambda client, _: client.resolve("x", id=secret(), lost=True),
    "upload": lambda client, _: client.upload(secret()),
    "upload of a URL": lambda client, _: client.upload(f"https://a.invalid/{secret()}"),
    "download": lambda client, tmp: client.download(secret(), tmp / "a.mp4"),
    "download from": lambda client, tmp: client.download(f"https://a.invalid/{secret()}.mp4", tmp / "a.mp4"),
    "download to": lambda client, tmp: client.download("https://a.invalid/a.mp4", tmp / secret() / "a.mp4"),
    "download within": lambda client, _: client.download("https://a.invalid/a.mp4", "a.mp4", max_bytes=secret()),
    "save": lambda client, tmp: client.submit(REQUEST).save(tmp / f"{secret()}.mp4"),
    "save within": lambda client, _: client.submit(REQUEST).save("a.mp4", max_bytes=secret()),
    "budget of an account": lambda client, _: account_with_a_bad_number(client),
    "name of an argument": lambda client, _: client.recover(**{secret(): 1}),  # type: ignore[arg-type]
}
"""Each is refused."""
TAKEN_MISTAKES: dict[str, Mistake] = {
    "prompt": lambda client, _: client.generate(REQUEST, prompt=f"a {secret()}"),
    "negative_prompt": lambda client, _: client.generate(REQUEST, negative_prompt=quote(secret()).replace("N", "%4E")),
    "picture's URL": lambda client, _: client.generate(REQUEST, init_image=f"https://pictures.invalid/{secret()}"),
    "webhook": lambda client, _: client.generate(REQUEST, webhook=f"https://a.invalid/{secret()}"),
    "extra": lambda client, _: client.generate(REQUEST, extra={secret(): [secret()]}),
}
"""Each is a text of the user's own, which the service gets; but it is written down nowhere."""


async def all_shown(error: BaseException | None) -> str:
    return "" if error is None else "\n".join((await shown(error)).values())


def written_in(folder: Path) -> str:
    """The names and the content of all files; of videos the names: the emulator's hold the prompt that it was sent."""
    paths = [path for path in folder.rglob("*")]
    content = [path.read_bytes().decode("latin-1") for path in paths if path.is_file() and path.suffix != ".mp4"]
    return "\n".join([*map(str, paths), *content])


@pytest.mark.looptime
@pytest.mark.parametrize("name", REFUSED_MISTAKES)
async def test_a_key_in_the_wrong_place_is_refused_and_not_shown(
    everything_logged: io.StringIO, name: str, tmp_path: Path
) -> None:
    """As a ref, an id, a name, a path or a number it is refused: error, frames, logs, journal and files do not have it."""
    async with client_of(journal=tmp_path / "jobs.db") as client:
        with pytest.raises((InvalidRequestError, JournalError, TypeError)) as caught:
            await REFUSED_MISTAKES[name](client, tmp_path)
        rows = await client.history()
        what = [repr(client), repr(vars(client)), repr(rows), await all_shown(caught.value)]
    what += [everything_logged.getvalue(), written_in(tmp_path)]
    assert [text for text in what if holds_key(text)] == []


@pytest.mark.looptime
@pytest.mark.parametrize("rules", [[], [Rule(Fault.HTML_502, on="submit")], [Rule(Fault.JOB_FAILS)]], ids=str)
@pytest.mark.parametrize("name", TAKEN_MISTAKES)
async def test_a_key_in_a_text_is_not_written_down(
    everything_logged: io.StringIO, name: str, rules: list[Rule], tmp_path: Path
) -> None:
    """A prompt or a URL may hold anything, and the service gets it; error, frames, logs and journal have no key."""
    error: ModelsLabError | None = None
    async with client_of(*rules, journal=tmp_path / "jobs.db") as client:
        try:
            await TAKEN_MISTAKES[name](client, tmp_path)
        except ModelsLabError as failed:
            error = failed
        rows = await client.history()
    what = [repr(rows), await all_shown(error), everything_logged.getvalue(), written_in(tmp_path)]
    assert (len(rows), error is not None) == (1, bool(rules))
    assert [text for text in what if holds_key(text)] == []


CLIENT_MISTAKES: dict[str, Callable[[], Client]] = {
    "base_url": lambda: Client(secret(), base_url=secret()),
    "within base_url": lambda: Client(secret(), base_url=f"https://gateway.invalid/{secret()}"),
    "journal": lambda: Client(secret(), journal=secret()),
    "journal as a path": lambda: Client(secret(), journal=Path(secret()) / "jobs.db"),
    "wait": lambda: Client(secret(), wait=secret()),  # type: ignore[arg-type]
    "limits": lambda: Client(secret(), limits=secret()),  # type: ignore[arg-type]
    "max_in_flight": lambda: Client(secret(), max_in_flight=secret()),  # type: ignore[arg-type]
    "poll_cost": lambda: Client(secret(), poll_cost=secret()),  # type: ignore[arg-type]
    "budget": lambda: Client(secret(), budget=secret()),  # type: ignore[arg-type]
    "prices": lambda: Client(secret(), prices=[secret()]),  # type: ignore[arg-type]
    "webhook": lambda: Client(secret(), webhook={secret(): 1}),  # type: ignore[arg-type]
    "proxy": lambda: Client(secret(), proxy=secret()),
    "password of a proxy": lambda: Client(secret(), proxy=f"http://user:{secret()}@proxy.invalid:1"),
    "all but the key": lambda: Client(base_url=secret(), journal=secret(), wait=secret()),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", CLIENT_MISTAKES)
async def test_a_key_in_the_place_of_another_argument_is_not_shown(name: str) -> None:
    """Each argument of Client that is or holds the key is refused; neither the error nor a frame shows it."""
    with pytest.raises((InvalidRequestError, AuthenticationError)) as caught:
        CLIENT_MISTAKES[name]()
    assert not holds_key(await all_shown(caught.value))
    assert isinstance(caught.value, AuthenticationError) == (name == "all but the key")


async def test_a_key_of_the_environment_is_known_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A client that has its key from the environment hides it in the same way."""
    monkeypatch.setenv("MODELSLAB_API_KEY", secret())
    with pytest.raises(InvalidRequestError) as caught:
        Client(base_url=secret())
    assert not holds_key(await all_shown(caught.value))
    assert str(caught.value).startswith("base_url=hidden: must not hold the API key")


@pytest.mark.looptime
async def test_a_warning_does_not_show_the_key() -> None:
    """With limits="warn" a value goes beyond the documentation, and a warning names it."""
    async with client_of(limits="warn") as client:
        with pytest.warns(BeyondDocumentationWarning) as warned:
            client.check(REQUEST, model_id=secret())
    assert "model_id='***" in str(warned[0].message)
    assert warned[0].filename == __file__
    assert not holds_key(repr([vars(each) for each in warned]))


async def test_a_delivery_that_names_the_key_as_its_id() -> None:
    """A webhook's delivery is no answer of the service: an id in it that is the key is passed over."""
    async with client_of() as client:
        job = client.submit(REQUEST)
        client._receiver.receive(job.ref, secret())
        await asyncio.sleep(0)
        assert job._heard_id is None
        await client.aclose(drain=False)


# --- batches ---


LINES: dict[str, Callable[[], object]] = {
    "track_id": lambda: {**REQUEST, "track_id": secret()},
    "within a track_id": lambda: {**REQUEST, "track_id": f"scene-{secret()}"},
    "prompt": lambda: {**REQUEST, "prompt": f"a {secret()}"},
    "bad prompt": lambda: {**REQUEST, "prompt": [secret()]},
    "picture's URL": lambda: {**REQUEST, "init_image": f"https://pictures.invalid/{secret()}.png"},
    "picture": lambda: {**REQUEST, "init_image": f"pictures/of/castles/in/the/moon/light/{secret()}.png"},
    "seed": lambda: {**REQUEST, "seed": secret()},
    "unknown name": lambda: {**REQUEST, secret(): 1},
    "key": lambda: {**REQUEST, "key": secret()},
    "extra": lambda: {**REQUEST, "extra": {secret(): secret()}},
    "webhook": lambda: {**REQUEST, "webhook": secret()},
    "model_id": lambda: {**REQUEST, "model_id": secret()},
    "no JSON": lambda: secret(),
}


async def batch_of(manifest: Path, folder: Path, **options: Any) -> list[object]:
    """What a batch tells and leaves: its plan, its news (without the request as it was given), its files, its page."""
    told = list[object]()
    async with client_of(journal=folder.parent / "jobs.db") as client:
        async with open_batch(client, folder, **options) as batch:
            told.append(await batch.plan(read_manifest(manifest)))
        async for event in run_batch(client, read_manifest(manifest), folder, **options):
            told += [event.step, event.result, event.job]
            told.append(event.job and event.job.done() and not event.job.cancelled() and event.job.exception())
        rows = await client.history()
    write_report(folder)
    return [*told, rows, *read_results(folder)]


@pytest.mark.looptime
@pytest.mark.parametrize("name", LINES)
async def test_a_batch_does_not_show_a_key_of_its_manifest(
    everything_logged: io.StringIO, name: str, tmp_path: Path
) -> None:
    """Whatever a line has as the key: plan, results, report, names of videos, journal and logs do not show it."""
    folder = tmp_path / "batch"
    folder.mkdir()
    (tmp_path / "shots.jsonl").write_text(f"{json.dumps(LINES[name]())}\n")
    what = await batch_of(tmp_path / "shots.jsonl", folder / "out", name="{prompt}-{stem}-{item}-{line}.mp4")
    assert len([*read_results(folder / "out")]) == 1
    assert not holds_key("\n".join([*map(repr, what), everything_logged.getvalue(), written_in(folder)]))


def write_table(path: Path, columns: int) -> None:
    names = {1: [secret()], 2: [secret(), secret()], 3: ["prompt", "init_image", secret()]}[columns]
    path.write_text(f"{','.join(names)}\na,https://pictures.invalid/a.png,{secret()}\n")


@pytest.mark.looptime
@pytest.mark.parametrize("columns", [1, 2, 3])
async def test_a_batch_does_not_show_a_key_of_a_table(
    everything_logged: io.StringIO, columns: int, tmp_path: Path
) -> None:
    """The head of a table names its columns; one of them may be the key, or two."""
    (tmp_path / "batch").mkdir()
    write_table(tmp_path / "shots.csv", columns)
    what = []
    try:
        what = await batch_of(tmp_path / "shots.csv", tmp_path / "batch" / "out")
    except InvalidRequestError as error:
        what = [await all_shown(error)]
    assert len(what) > 0
    assert not holds_key("\n".join([*map(repr, what), everything_logged.getvalue(), written_in(tmp_path / "batch")]))


@pytest.mark.looptime
@pytest.mark.parametrize("wrong", ["folder", "name", "manifest"])
async def test_a_batch_of_wrong_arguments_does_not_show_the_key(wrong: str, tmp_path: Path) -> None:
    """A folder, a pattern of names and a manifest whose path is the key."""
    options = {"folder": tmp_path / "out", "name": "{stem}.mp4", "manifest": tmp_path / "none"}
    options[wrong] = tmp_path / secret() if wrong == "folder" else secret()  # type: ignore[assignment]
    with pytest.raises(InvalidRequestError) as caught:
        async with client_of(journal=tmp_path / "jobs.db") as client:
            async for _ in run_batch(client, read_manifest(Path(options.pop("manifest"))), **options):  # type: ignore[arg-type]
                pass
    assert not holds_key("".join(traceback.format_exception(caught.value)))
    assert not holds_key(written_in(tmp_path))


# --- the command ---


COMMANDS: list[Callable[[], list[str]]] = [
    lambda: [secret()],
    lambda: ["balance", secret()],
    lambda: ["balance", f"--{secret()}"],
    lambda: ["balance", "--base-url", secret()],
    lambda: ["balance", "--journal", f"{secret()}/jobs.db"],
    lambda: ["balance", "--limits", secret()],
    lambda: ["balance", "--max-in-flight", secret()],
    lambda: ["balance", "--timeout", secret()],
    lambda: ["show", "x", "--key-file", secret()],
    lambda: ["generate", secret(), "-p", "a"],
    lambda: ["generate", "a.png", "-p", secret(), "--seed", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--track-id", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--webhook", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--extra", secret()],
    lambda: ["generate", "a.png", "-p", "a", "--extra", f"{secret()}={secret()}"],
    lambda: ["generate", "a.png", "-p", "a", "-o", f"{secret()}.mp4"],
    lambda: ["show", secret()],
    lambda: ["collect", secret()],
    lambda: ["collect", "--name", secret()],
    lambda: ["resolve", secret(), "--lost"],
    lambda: ["resolve", "x", "--id", secret()],
    lambda: ["batch", secret(), "-o", "out"],
    lambda: ["batch", "shots.jsonl", "-o", secret(), "--yes"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--name", f"{secret()}.mp4"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--set", f"{secret()}=1"],
    lambda: ["batch", "shots.jsonl", "-o", "out", "--yes", "--budget", secret()],
    lambda: ["cost", "shots.jsonl"],
    lambda: ["cost", "shots.jsonl", "--set", f"webhook={'x' * 40}{secret()}"],
    lambda: ["report", secret()],
    lambda: ["report", ".", "-o", secret()],
    lambda: ["emulator", "--host", secret()],
    lambda: ["completion", secret()],
]


@pytest.mark.parametrize(("where", "as_json"), [("environment", False), ("file", True)])
@pytest.mark.parametrize("number", range(len(COMMANDS)))
def test_the_command_does_not_print_a_key_that_was_typed(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    number: int,
    as_json: bool,
    where: str,
) -> None:
    """Whatever word of a command is the key: it is refused, and neither printed nor made the name of a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(PNG)
    (tmp_path / "key").touch(0o600)
    (tmp_path / "key").write_text(secret())
    (tmp_path / "shots.jsonl").write_text(json.dumps({"prompt": "a", "init_image": "a.png", secret(): secret()}) + "\n")
    environment = {
        "MODELSLAB_CONFIG": "none",
        "MODELSLAB_JOURNAL": "jobs.db",
        "MODELSLAB_BASE_URL": "http://127.0.0.1:9",
    }
    source = {"MODELSLAB_API_KEY": secret()} if where == "environment" else {"MODELSLAB_KEY_FILE": "key"}
    for name, value in {**environment, **source}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        app.main([*COMMANDS[number](), *(["--json"] if as_json else [])])
    out, err = capfd.readouterr()
    assert ended.value.code != 0
    assert len(out + err) > 0
    assert not holds_key(out + err)
    assert not any(secret() in path.name for path in tmp_path.rglob("*"))


# --- the key in an encoding ---

KEYS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=8, max_size=70)
SERVICE_KEYS = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=70)


def can_be_read(key: str, text: str) -> bool:
    """Whether somebody gets the key out of a text: as it is, or by undoing an encoding of any part of it."""
    decoded = [text, unquote(text)]
    for run in re.findall(r"[A-Za-z0-9+/_-]{8,}", "\n".join([*decoded, text.replace("\\/", "/")])):
        for start in range(4):
            letters = run[start:].translate(str.maketrans("-_", "+/"))
            decoded.append(b64decode(letters[: len(letters) // 4 * 4]).decode("latin-1"))
    return any(key in each for each in decoded)


def percent(text: str, choices: list[int]) -> str:
    """Percent-encode some characters, with letters of either case."""
    ways = [lambda c: c, lambda c: f"%{ord(c):02X}", lambda c: f"%{ord(c):02x}"]
    return "".join(ways[choice](character) for character, choice in zip(text, choices, strict=True))


ENCODINGS: dict[str, Callable[[str, str, str], str]] = {
    "base64": lambda before, key, after: b64encode(f"{before}{key}{after}".encode()).decode(),
    "base64 for URLs": lambda before, key, after: (
        urlsafe_b64encode(f"{before}{key}{after}".encode()).decode().strip("=")
    ),
    "base64 in a URL": lambda before, key, after: quote(b64encode(f"{before}{key}{after}".encode()), safe=""),
    "quoted": lambda before, key, after: f"{quote(before)}{quote(key, safe='')}{quote(after)}",
    "all of it quoted": lambda before, key, after: before + percent(key, [1] * len(key)) + after,
    "in lower case": lambda before, key, after: before + percent(key, [2] * len(key)) + after,
}


@given(KEYS, st.text(max_size=4), st.text(max_size=4), st.sampled_from([*ENCODINGS]))
def test_an_encoded_key_is_redacted(key: str, before: str, after: str, encoding: str) -> None:
    """At each position within base64, and in URL encoding: nobody gets it out of what is left."""
    api_key, text = ApiKey(key), ENCODINGS[encoding](before, key, after)
    body = json.dumps({"message": f"no account has {text}"}).replace("/", "\\/").encode()
    assert api_key.may_be_in(body)
    assert not can_be_read(key, api_key.redact(json.loads(body))["message"])
    assert not can_be_read(key, api_key.redact(body.decode()))


@given(KEYS, st.data())
def test_a_key_of_which_some_characters_are_quoted_is_redacted(key: str, data: st.DataObject) -> None:
    """A URL may have any of them percent-encoded, with letters of either case."""
    text = f"https://a.invalid/{percent(key, data.draw(st.lists(st.integers(0, 2), min_size=len(key), max_size=len(key))))}"
    assert key not in unquote(ApiKey(key).redact(text))


@given(SERVICE_KEYS, st.text(max_size=30), st.sampled_from([*ENCODINGS]), st.integers(12, 60))
def test_a_key_that_was_cut_short_is_redacted(key: str, before: str, encoding: str, length: int) -> None:
    """An excerpt ends anywhere: at most 7 characters of the key are left of one that it cut."""
    whole = ENCODINGS[encoding]("", key, "") if encoding.startswith("base64") else ENCODINGS[encoding](before, key, "")
    api_key = ApiKey(key)
    assert not can_be_read(key[:8], api_key.cut(api_key.redact(whole[:length])))


@given(
    SERVICE_KEYS,
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    ),
)
def test_what_has_no_key_stays_as_it_is(key: str, value: Any) -> None:
    """Only a key is taken out."""
    text = json.dumps(value, ensure_ascii=False)
    api_key = ApiKey(key)
    assert api_key.is_in(text) or api_key.redact(value) == value
    assert ApiKey(key[:7]).redact({"message": key[:7]}) == {"message": key[:7]}


@pytest.mark.parametrize(
    "piece",
    [
        "a", "%", "%25", "%61", "%6", "xGsN7d4E", "%78", "x%47s", "Z" * 79 + "=",
        '"%61a",', "eEdzTjdkNEV3cVQyYjhySjBwTGtWbTVjWnlIZkExdVE5b0llWG5SdFNnS2pEdldoTWFCaVVs", "\\/",
    ],
)  # fmt: skip
def test_no_body_takes_long_to_search(piece: str) -> None:
    """A mebibyte of anything that resembles a key is searched, redacted and cut in less time than a poll may take."""
    api_key = ApiKey(secret())
    text = piece * (2**20 // len(piece))
    begun_at = perf_counter()
    found = api_key.may_be_in(text.encode())
    rest = api_key.cut(api_key.redact(text + secret()))
    assert perf_counter() - begun_at < 1.0
    assert (found, secret() in rest) == (False, False)


def test_an_error_that_quotes_a_body_shows_no_encoded_key() -> None:
    """What is no JSON is quoted in an error: neither base64 nor URL encoding brings the key there, whole or cut."""
    api_key = ApiKey(secret())
    for encode in ENCODINGS.values():
        for page in (f"<h1>{encode('user:', secret(), '')}</h1>", encode("us", secret(), "")[:-10]):
            body = read(HttpReply(502, page.encode()), api_key)
            assert isinstance(body, Malformed)
            assert not can_be_read(secret()[:8], body.reason)


def test_a_part_of_what_is_hidden_stays_hidden() -> None:
    """structlog and rich show the beginning of a long value: that is hidden too."""
    body = encode_body({}, ApiKey(secret()))
    assert not holds_key(f"{body[:50]!r} {body[:50]} {body!r} {body} {[body[9:]]}")
    assert (body[0], bytes(body[:7])) == (ord("{"), b'{"key":')
    values = vars(ApiKey(secret()))
    assert not holds_key(repr([values, *(value[:50] for value in values.values() if isinstance(value, str | bytes))]))


# --- what can be no key ---


@pytest.mark.parametrize(
    ("key", "problem"),
    [
        ("abcdefg", "fewer than 8 characters"),
        ('"abcdefghijkl"', "quotes around it"),
        ("'abcdefghijkl'", "quotes around it"),
        ('"abcdefghijkl', "quotes around it"),
        ("abcdefghijkl'", "quotes around it"),
        ("abcdefgh\nijkl", "a line break"),
        ("abcdefgh\tijkl", "a character that no key has"),
        ("abcdefgh\udc80ijkl", "a character that no key has"),
    ],
)
async def test_what_can_be_no_key_is_refused_before_anything_is_sent(key: str, problem: str) -> None:
    """By the time that the client opens, or is first used; the error says what is wrong, and shows no character."""

    async def open_it() -> None:
        async with Client(key):
            pass

    async def use_it() -> None:
        await Client(key).balance()

    for begin in (open_it, use_it):
        with pytest.raises(AuthenticationError, match=problem) as caught:
            await begin()
        assert (caught.value.charged, caught.value.http_status) == (False, None)
        assert "abc" not in f"{caught.value!r}{caught.value}"
    async with client_of() as client:
        with pytest.raises(AuthenticationError, match=problem):
            await client.account(key)


@pytest.mark.parametrize("key", ["any", '"quoted"', "abcdefg"])
async def test_an_emulator_takes_any_key(key: str) -> None:
    """On loopback a word will do: it is no secret. Without use, so will it for the service."""
    assert KEY not in repr(Client(key))
    async with Emulator(speed=400) as emulator, Client(key, base_url=emulator.url) as client:
        assert await client.queue_depth() == 0
        assert await (await client.account(f"{key}2")).queue_depth() == 0


@pytest.mark.parametrize("key", ["abcdefgh", "a-key_with.signs~", "a key", "schlüssel"])
def test_what_may_be_a_key_is_taken(key: str) -> None:
    """The service documents no form of its keys, so whatever can be one is sent."""
    check_key(ApiKey(key.ljust(8, "x")), "https://modelslab.com")
