"""The key is in the body of requests, and in no output of any kind."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import pickle
import random
import re
import socket
import struct
import traceback
from base64 import b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, http_writer, web
from aiohttp.base_protocol import BaseProtocol
from helpers.inside import engine_of
from helpers.reporters import rich_traceback, shown
from helpers.secret import REQUEST, a_record, can_be_read, client_of, holds_key, secret
from helpers.world import KEY, PNG, World, a_request
from multidict import CIMultiDict

from modelslab_async import (
    AuthenticationError,
    Budget,
    Client,
    Job,
    ModelsLabError,
    Timeouts,
    TransportError,
)
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.engine.config import check_key
from modelslab_async.protocol.secret import ApiKey
from modelslab_async.protocol.wire import encode_body
from modelslab_async.transport.aiohttp import AiohttpTransport, OneTimeBody

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


class AtOnce(random.Random):
    """Chance that makes every wait before a repetition end at once."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


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
    async with echoing(reply) as url, Client(KEY, base_url=url, timeouts=timeouts, rng=AtOnce()) as client:
        job = client.submit(a_request())
        await job.wait(timeout=1)
        shown = [repr(client), repr(vars(client)), *map(repr, vars(engine_of(client)).values())]
        with pytest.raises(ModelsLabError) as caught:
            await client.queue_depth()
        shown += traceback.format_exception(caught.value)
        await client.aclose(drain=False)
    shown += [all_that_shows(job), everything_logged.getvalue()]
    assert len(everything_logged.getvalue()) > 0
    assert not can_be_read(KEY[:-1], "\n".join(shown))


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


async def failing_call(name: str, rule: Rule, _: Path) -> None:
    await call(name, rule=rule)


async def beyond_a_budget() -> None:
    async with client_of(budget=Budget(usd=0)) as client:
        client.submit(REQUEST)


async def attached(*rules: Rule, **options: Any) -> None:
    async with client_of(*rules, **options) as client:
        await (await client.attach("7"))


FAILURES: dict[str, Failure] = {
    "submit refused": lambda _: generate(keys=["another"]),
    "submit fails": lambda _: generate(Rule(Fault.UNAVAILABLE_503)),
    "submit may be taken": lambda _: generate(REFUSED),
    "submit reset": lambda _: generate(Rule(Fault.RESET_BEFORE)),
    "submit not connected": lambda _: generate(Rule(Fault.REFUSED)),
    "submit timed out": lambda _: generate(Rule(Fault.STALL)),
    "submit answered by a page": lambda _: generate(Rule(Fault.HTML_502)),
    "submit answered by half a reply": lambda _: generate(Rule(Fault.TRUNCATED_JSON)),
    "submit beyond the budget": lambda _: beyond_a_budget(),
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
    "save to a folder": save,
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
        f"{name} {rule.fault.name}": partial(failing_call, name, rule)
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


@pytest.mark.parametrize("size", [24, 1_000_000])
@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.__name__)
async def test_no_reporter_shows_the_key_of_a_request_over_a_socket(answer: Answer, size: int) -> None:
    """However a connection breaks: neither the job's error nor the transport's own, with aiohttp's frames, shows it."""
    timeouts = Timeouts(connect=0.2, submit=0.2, fetch=0.2)
    transport = AiohttpTransport(timeouts)
    async with served(answer) as url:
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
    what = [(reporter, text) for error in errors for reporter, text in (await shown(error)).items()]
    assert len(errors) == 1 + (answer is not echo_with_401)
    assert [reporter for reporter, text in what if holds_key(text)] == []


class Broken(asyncio.Transport):
    """A connection that breaks at the second write."""

    writes = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.writes += 1
        if self.writes == 2:
            raise OSError(f"{len(data)} bytes are too many")

    def is_closing(self) -> bool:
        return False


@pytest.mark.parametrize("size", [24, 1_000_000])
async def test_no_frame_below_aiohttp_is_given_the_key(size: int) -> None:
    """What aiohttp writes to a connection hides itself: headers and body are not joined to plain bytes."""
    protocol = BaseProtocol(asyncio.get_running_loop())
    protocol.transport = Broken()
    writer = http_writer.StreamWriter(protocol, asyncio.get_running_loop())
    body = OneTimeBody(encode_body({}, ApiKey(secret()), picture=bytes(size)))
    await writer.write_headers("POST / HTTP/1.1", CIMultiDict())
    with pytest.raises(OSError, match="too many") as caught:
        await body.write(writer)
    what = await shown(caught.value)
    assert "hidden bytes" in what["standard_library"]
    assert [reporter for reporter, text in what.items() if holds_key(text)] == []


def test_every_public_call_is_guarded() -> None:
    """Each public method but the generators goes through the one decorator; its signature and kind stay."""
    for name, member in [*vars(Client).items(), *vars(Client.__base__).items()]:
        if inspect.isfunction(member) and not name.startswith("_") and not inspect.isasyncgenfunction(member):
            assert hasattr(member, "__wrapped__"), name
            assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(inspect.unwrap(member)), name
    assert [*inspect.signature(Client).parameters][:2] == ["api_key", "base_url"]


async def test_a_traceback_of_an_error_of_ours_ends_at_the_call() -> None:
    """Frames of the package would show its variables; the call that failed is what a user needs to see."""
    async with client_of() as client:
        with pytest.raises(ModelsLabError) as caught:
            await client.attach(" ")
    assert [Path(entry.path).name for entry in caught.traceback] == [Path(__file__).name]
    assert "await client.attach" in rich_traceback(caught.value)


async def test_an_exception_that_the_caller_handles_stays_as_it_is() -> None:
    """It is the context of an error that is raised meanwhile, with its own traceback."""
    async with client_of() as client:
        for call_it in (lambda: client.check(prompt=""), client.history):
            handled = KeyError("the caller's own")
            try:
                raise handled
            except KeyError:
                with pytest.raises(ModelsLabError) as caught:
                    await ready(call_it())
            assert caught.value.__context__ is handled
            assert handled.__traceback__ is not None


async def ready(made: object) -> None:
    if inspect.isawaitable(made):
        await made


def test_a_part_of_what_is_hidden_stays_hidden() -> None:
    """Reporters such as structlog and rich show the beginning of a long value: that is hidden too."""
    body = encode_body({}, ApiKey(secret()))
    assert not holds_key(f"{body[:50]!r} {body[:50]!s} {body!r} {body!s} {[body[9:]]}")
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
    taken = ApiKey(key.ljust(8, "x"))
    check_key(taken, "https://modelslab.com")
    assert taken.problem(is_any_length=False) is None
