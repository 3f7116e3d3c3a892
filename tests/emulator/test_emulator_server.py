"""The emulator over real sockets on this machine: what a process sees that talks to it."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from PIL import Image

from modelslab_async import Client
from modelslab_async.emulator import Emulator, Fault, Rule, skeleton
from modelslab_async.emulator.order import Work

KEY = "a-key-that-no-answer-may-show"
ROCKET = (Path(__file__).parents[2] / "examples" / "rocket.jpg").read_bytes()
SUBMIT = "/api/v6/video/img2video_ultra"
FETCH = "/api/v6/video/fetch/"
UPLOAD = "/api/v6/base64_to_url"
BALANCE = "/api/wallet_balance"
SMALL = {"resolution": 64, "num_frames": 8}


@attrs.define
class Talk:
    """An emulator, and a session that talks to it."""

    emulator: Emulator
    session: aiohttp.ClientSession

    async def post(self, path: str, **params: Any) -> tuple[int, Any]:
        async with self.session.post(self.emulator.url + path, json={"key": KEY, **params}) as response:
            return response.status, json.loads(await response.read())

    async def submit(self, **changes: Any) -> tuple[int, Any]:
        inline = {"base64": True, "init_image": base64.b64encode(ROCKET).decode()}
        return await self.post(SUBMIT, **{"prompt": "zoom in", **inline, **changes})

    async def get(self, url: str, **headers: str) -> tuple[int, bytes]:
        async with self.session.get(url, headers=headers) as response:
            return response.status, await response.read()

    async def polled(self, job_id: int, *, until: Iterable[str] = ("success", "failed")) -> dict[str, Any]:
        """Fetch until the job is at its end."""
        while True:
            _, reply = await self.post(f"{FETCH}{job_id}")
            if reply["status"] in until and reply.get("message") not in ("Try Again", "Request not found"):
                fetched: dict[str, Any] = reply
                return fetched

    async def file(self, link: str) -> bytes:
        """Get a link until it is there."""
        while True:
            status, content = await self.get(link)
            if status == 200:
                return content

    async def done(self, **changes: Any) -> tuple[int, str]:
        """A job's id and link, when its file is there."""
        _, reply = await self.submit(**changes)
        link = (await self.polled(reply["id"]))["output"][0]
        await self.file(link)
        return reply["id"], link


@asynccontextmanager
async def talking(**options: Any) -> AsyncIterator[Talk]:
    """Four hundred times as fast as the service, and without real videos, unless asked for."""
    async with (
        asyncio.timeout(20),
        Emulator(**{"speed": 400.0, "render": skeleton, **options}) as emulator,
        aiohttp.ClientSession() as session,
    ):
        yield Talk(emulator, session)


@asynccontextmanager
async def somebody(**handlers: Callable[[web.Request], Any]) -> AsyncIterator[str]:
    """Another server on this machine, and its URL: the one that has pictures, or is told the end."""
    app = web.Application()
    for name, handler in handlers.items():
        app.router.add_route("*", f"/{name}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# --- who it is ---


async def test_every_reply_says_what_it_is() -> None:
    """Each reply, whatever was asked and however it ends, has a header that says: an emulator, not ModelsLab."""
    async with talking(keys={KEY}) as talk:
        asked = [
            *((method, path) for method in ("GET", "POST") for path in ("/", SUBMIT, FETCH + "1", BALANCE, "/no/such")),
            *(("GET", path) for path in ("/emulator/ledger", "/generations/none.mp4", "/uploads/none")),
            ("DELETE", "/"),
            ("HEAD", "/"),
        ]
        for method, path in asked:
            async with talk.session.request(method, talk.emulator.url + path) as response:
                assert "not ModelsLab" in response.headers["X-Emulator"], (method, path)


async def test_it_listens_on_this_machine_only() -> None:
    """Unless told otherwise it listens on loopback, on a free port: two can stand side by side."""
    async with talking() as one, talking() as other:
        assert one.emulator.url.startswith("http://127.0.0.1:")
        assert one.emulator.url != other.emulator.url
        assert [(await talk.post(BALANCE))[0] for talk in (one, other)] == [200, 200]


@pytest.mark.parametrize(("host", "name"), [("0.0.0.0", "127.0.0.1"), ("::1", "[::1]")])
async def test_its_url_is_one_to_go_to(host: str, name: str) -> None:
    """Also where it listens everywhere: a client takes it, and links lead there."""
    async with talking(host=host) as talk:
        assert talk.emulator.url.startswith(f"http://{name}:")
        assert (await talk.post(BALANCE))[0] == 200
        async with Client(api_key="any", base_url=talk.emulator.url) as client:
            assert client.base_url == talk.emulator.url


async def answer_to(talk: Talk, coding: str, body: bytes) -> bytes:
    """The answer to a submit of a hundred bytes, of which these come."""
    host, _, port = talk.emulator.url.removeprefix("http://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Encoding: {coding}\r\n"
    writer.write(f"{head}Content-Length: 100\r\n\r\n".encode() + body)
    if len(body) < 100:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_a_body_that_breaks_off(caplog: pytest.LogCaptureFixture) -> None:
    """Is an error of who sent it, and none in the emulator's log."""
    async with talking() as talk:
        assert (await answer_to(talk, "identity", b'{"key": "bro'))[:13] in (b"", b"HTTP/1.1 400 ")
        assert (await talk.post(BALANCE))[0] == 200
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_that_is_not_coded_as_it_says() -> None:
    """The same."""
    async with talking() as talk:
        assert (await answer_to(talk, "gzip", b"this is no gzip" + bytes(85)))[:13] == b"HTTP/1.1 400 "
        assert (await talk.post(BALANCE))[0] == 200


async def test_the_page() -> None:
    """A page for people: HTML that says it is not ModelsLab, with the jobs, and their prompts escaped."""
    async with talking() as talk:
        await talk.done(prompt="<script>alert('you')</script> & more")
        await talk.submit(prompt="half of a pair: \ud800")
        async with talk.session.get(talk.emulator.url) as response:
            text = await response.text()
            assert (response.status, response.content_type, response.charset) == (200, "text/html", "utf-8")
    assert "not ModelsLab" in text
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#x27;you&#x27;)&lt;/script&gt; &amp; more" in text
    assert KEY not in text


async def test_the_ledger() -> None:
    """Other processes read the bill as JSON: what was charged, for which track_id; never the key."""
    async with talking() as talk:
        ids = [(await talk.submit(track_id=name))[1]["id"] for name in ("a", "b")]
        await talk.submit(prompt=None)
        status, content = await talk.get(f"{talk.emulator.url}/emulator/ledger")
    bill = json.loads(content)
    assert (status, bill["emulator"], bill["total_usd"]) == (200, True, "0.40")
    assert [(charge["job_id"], charge["track_id"], charge["usd"]) for charge in bill["charges"]] == [
        (ids[0], "a", "0.20"),
        (ids[1], "b", "0.20"),
    ]
    assert KEY.encode() not in content


# --- files ---


async def test_a_real_video_comes_out() -> None:
    """From a photograph to an mp4: its link, announced at the submit, gives the whole file, and parts of it."""
    async with talking(render=None) as talk:
        _, reply = await talk.submit(**SMALL, num_inference_steps=100)
        await talk.polled(reply["id"])
        (link,) = reply["future_links"] if reply["status"] == "processing" else reply["output"]
        whole = await talk.file(link)
        async with talk.session.get(link) as response:
            etag = response.headers["ETag"]
            assert (response.headers["Accept-Ranges"], response.content_type) == ("bytes", "video/mp4")
        assert whole[4:8] == b"ftyp"
        assert await talk.get(link, Range="bytes=100-") == (206, whole[100:])
        assert await talk.get(link, **{"Range": "bytes=100-", "If-Range": etag}) == (206, whole[100:])
        assert await talk.get(link, **{"Range": "bytes=100-", "If-Range": '"old"'}) == (200, whole)
        assert (await talk.get(link, Range=f"bytes={len(whole)}-"))[0] == 416
        assert (await talk.get(link, Range="bytes=" + "9" * 5000 + "-"))[0] in (200, 416)


async def test_an_upload_is_served() -> None:
    """An uploaded picture is at the URL that was given for it, and a job may start from it."""
    async with talking() as talk:
        uri = "data:image/jpeg;base64," + base64.b64encode(ROCKET).decode()
        _, reply = await talk.post(UPLOAD, base64_string=uri)
        (url,) = reply["output"]
        assert await talk.get(url) == (200, ROCKET)
        status, reply = await talk.submit(base64=False, init_image=url)
        assert (status, reply["status"]) == (200, "processing")


async def test_a_picture_that_cannot_be_decoded() -> None:
    """It passes for a picture at the submit; the job is charged, fails, and its file and webhook say so."""
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def hear(request: web.Request) -> web.Response:
        await told.put(await request.json())
        return web.Response()

    async with somebody(hook=hear) as other, talking(render=None, speed=100.0) as talk:
        broken = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(24)).decode()
        _, reply = await talk.submit(init_image=broken, webhook=f"{other}/hook", track_id="mine")
        end = await talk.polled(reply["id"], until=["failed"])
        assert "could not be read" in end["message"]
        assert (await talk.get(reply["future_links"][0]))[0] == 404
        heard = await told.get()
        assert (heard["status"], heard["id"], heard["track_id"]) == ("failed", reply["id"], "mine")
        assert len(talk.emulator.ledger.charges) == 1


async def test_no_end_is_told_before_it_is_known() -> None:
    """Where rendering takes longer than the job should, a true webhook waits for it: the picture may prove broken."""
    told: asyncio.Queue[Any] = asyncio.Queue()
    may_fail = threading.Event()

    async def hear(request: web.Request) -> web.Response:
        await told.put(await request.json())
        return web.Response()

    def fails(_: Work) -> bytes:
        may_fail.wait(30)
        raise ValueError("broken")

    rules = [Rule(Fault.WEBHOOK_FORGED)]
    async with somebody(hook=hear) as other, talking(render=fails, speed=1000.0, faults=rules) as talk:
        _, reply = await talk.submit(webhook=f"{other}/hook")
        assert (await told.get())["message"] == "forged"
        seen = [(await talk.post(f"{FETCH}{reply['id']}"))[1]["status"] for _ in range(20)]  # and it would be due
        nothing_yet = told.empty()
        may_fail.set()
        assert nothing_yet
        assert set(seen) == {"processing"}
        assert "broken" in (await told.get())["message"]


@pytest.mark.parametrize("params", [{"num_inference_steps": 100}, {"num_frames": 8}], ids=["later", "at once"])
async def test_a_job_is_done_when_its_video_is(params: dict[str, Any]) -> None:
    """Where rendering takes longer than the job should, it is in work, holds its place, and its link is not there yet.

    So no end is taken back, and no request hangs.
    """
    may_end = threading.Event()

    def slow(work: Work) -> bytes:
        may_end.wait(30)
        return skeleton(work)

    async with talking(render=slow, speed=1000.0, queue_limit=1) as talk:
        first = asyncio.ensure_future(talk.submit(**params))
        while not talk.emulator.service.orders:
            await talk.post(BALANCE)
        (order,) = talk.emulator.service.orders.values()
        while talk.emulator._now() <= order.done_at:
            await talk.post(BALANCE)
        for _ in range(3):
            assert (await talk.post(f"{FETCH}{order.id}"))[1]["status"] == "processing"
            assert (await talk.submit())[0] == 429
            assert (await talk.get(order.link(talk.emulator.url)))[0] in (403, 404)
        may_end.set()
        assert (await first)[0] == 200
        await talk.polled(order.id, until=["success"])
        assert await talk.file(order.link(talk.emulator.url)) == skeleton(order.work)
        assert (await talk.submit())[0] == 200


async def test_a_broken_picture_is_never_told_as_a_success() -> None:
    """Neither of a job that is done at once, nor of one that would be done before its renderer comes to the break."""
    async with talking(render=None, speed=100_000.0) as talk:
        broken = base64.b64encode(ROCKET[: len(ROCKET) // 2]).decode()
        for params in ({"num_frames": 4}, {"num_inference_steps": 100}):
            _, reply = await talk.submit(init_image=broken, **params)
            end = await talk.polled(reply["id"])
            assert (end["status"], "could not be read" in end["message"]) == ("failed", True)
            (order,) = [order for order in talk.emulator.service.orders.values() if order.id == reply["id"]]
            assert (await talk.get(order.link(talk.emulator.url)))[0] == 404


async def test_it_closes_in_the_middle_of_a_video() -> None:
    """Whoever ends it does not wait for minutes of video that nobody will see."""
    async with talking(render=None) as talk:
        _, reply = await talk.submit(num_frames=1000, resolution=1080)
        assert (await talk.post(f"{FETCH}{reply['id']}"))[1]["status"] == "processing"


async def test_a_renderer_that_fails_says_why() -> None:
    """What goes wrong with it is not told as the picture's fault."""

    def full(_: Work) -> bytes:
        raise OSError(28, "No space left on device")

    async with talking(render=full) as talk:
        _, reply = await talk.submit()
        end = await talk.polled(reply["id"])
    assert (end["status"], "picture" in end["message"], "No space left" in end["message"]) == ("failed", False, True)


async def test_ids_are_never_those_of_an_earlier_emulator() -> None:
    """Or a journal would take a job of this one for one of before."""
    ids = []
    for _ in range(3):
        async with talking() as talk:
            ids += [(await talk.submit())[1]["id"] for _ in range(3)]
    assert len(set(ids)) == 9


# --- pictures ---


def a_gif() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "GIF")
    return file.getvalue()


async def test_a_picture_is_fetched() -> None:
    """The picture of a URL is fetched, redirects followed, without the key; and it is what the video is made of."""
    seen: list[web.Request] = []

    async def picture(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(body=a_gif(), content_type="text/plain")

    async def moved(_: web.Request) -> web.Response:
        raise web.HTTPFound("/picture")

    made: list[bytes] = []

    def render(work: Any) -> bytes:
        made.append(work.picture)
        return skeleton(work)

    async with somebody(picture=picture, moved=moved) as other, talking(render=render) as talk:
        for name in ("picture", "moved"):
            status, reply = await talk.submit(base64=False, init_image=f"{other}/{name}")
            assert (status, reply["status"]) == (200, "processing")
            await talk.file(reply["future_links"][0])
    assert made == [a_gif(), a_gif()]
    assert not any(KEY in f"{request.url} {request.headers}" for request in seen)


async def test_a_picture_that_cannot_be_had() -> None:
    """404, over 5 MB, no picture, no server, no host: the submit is refused, and nothing is charged."""

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=ROCKET + bytes(5_000_001 - len(ROCKET)))

    async def page(_: web.Request) -> web.Response:
        return web.Response(text="<html>no picture</html>", content_type="image/png")

    async def around(_: web.Request) -> web.Response:
        raise web.HTTPFound("/around")

    async with somebody(large=large, page=page, around=around) as other, talking() as talk:
        urls = [f"{other}/{name}" for name in ("none", "large", "page", "around")]
        for url in [*urls, "http://127.0.0.1:1/", "http://a..b/", "https://" + other.removeprefix("http://")]:
            status, reply = await talk.submit(base64=False, init_image=url)
            assert (status, set(reply["message"])) == (400, {"init_image"}), url
        assert talk.emulator.ledger.charges == []


# --- webhooks ---


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [
        (None, ["success"]),
        (Fault.WEBHOOK_TWICE, ["success", "success"]),
        (Fault.WEBHOOK_FORGED, ["failed", "success"]),
        (Fault.WEBHOOK_LATE, ["success"]),
        (Fault.WEBHOOK_MISSING, []),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
async def test_webhooks(fault: Fault | None, statuses: list[str]) -> None:
    """The receiver is told once, twice, first a lie, late, or never; with the job's id and its track_id."""
    told: list[Any] = []
    complete, job_was_done = asyncio.Event(), []

    async with talking(faults=[Rule(fault, times=1, seconds=30.0)] if fault else []) as talk:

        async def hear(request: web.Request) -> web.Response:
            payload = await request.json()
            if payload["track_id"] == "last":
                complete.set()
            else:
                told.append(payload)
                job_was_done.append((await talk.post(f"{FETCH}{payload['id']}"))[1]["status"] == "success")
            return web.Response()

        async with somebody(hook=hear) as other:
            job_id, _ = await talk.done(webhook=f"{other}/hook", track_id="mine")
            while len(told) < len(statuses):
                await talk.post(BALANCE)
            await talk.submit(webhook=f"{other}/hook", track_id="last")
            await complete.wait()
    assert [payload["status"] for payload in told] == statuses
    assert {(payload["id"], payload["track_id"]) for payload in told} <= {(job_id, "mine")}
    assert all(done for payload, done in zip(told, job_was_done, strict=True) if payload["status"] == "success")


async def test_a_receiver_that_is_not_there() -> None:
    """A webhook that reaches nobody hurts nobody."""
    async with talking() as talk:
        for hook in ("http://127.0.0.1:1/", "http://a..b/"):
            job_id, _ = await talk.done(webhook=hook)
            assert (await talk.polled(job_id))["status"] == "success"


# --- faults ---


async def test_refused() -> None:
    """It stops listening, and after the rule's seconds it listens again on the same port; nothing was charged."""
    async with talking(faults=[Rule(Fault.REFUSED, times=1, seconds=40.0)]) as talk:
        url = talk.emulator.url
        with pytest.raises(aiohttp.ClientConnectionError):
            await talk.submit()
        with pytest.raises(aiohttp.ClientConnectorError):
            await talk.submit()
        while True:
            try:
                status, reply = await talk.submit()
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0)
            else:
                break
        assert (status, reply["status"], talk.emulator.url) == (200, "processing", url)
        assert len(talk.emulator.ledger.charges) == 1


async def test_refused_while_another_takes_its_port(caplog: pytest.LogCaptureFixture) -> None:
    """It says so, and listens again once the port is free."""
    async with talking(faults=[Rule(Fault.REFUSED, times=1, seconds=40.0)]) as talk:
        with pytest.raises(aiohttp.ClientConnectionError):
            await talk.submit()
        other = await asyncio.start_server(lambda *_: None, "127.0.0.1", int(talk.emulator.url.rpartition(":")[2]))
        while not any("cannot listen again" in record.message for record in caplog.records):  # noqa: ASYNC110 - a log has no event
            await asyncio.sleep(0.01)
        other.close()
        await other.wait_closed()
        while True:
            try:
                assert (await talk.submit())[0] == 200
                break
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(("fault", "charges"), [(Fault.RESET_BEFORE, 0), (Fault.RESET_AFTER, 1)])
async def test_reset(fault: Fault, charges: int) -> None:
    """The connection breaks instead of a reply; what was done by then is charged; the next request is answered."""
    async with talking(faults=[Rule(fault, times=1)]) as talk:
        with pytest.raises(aiohttp.ClientConnectionError):
            await talk.submit()
        assert len(talk.emulator.ledger.charges) == charges
        assert (await talk.submit())[0] == 200


async def test_stall() -> None:
    """No reply ever comes, though the job was taken; other requests are answered, and the end is quick."""
    async with talking(faults=[Rule(Fault.STALL, times=1)]) as talk:
        waiting = asyncio.ensure_future(talk.submit())
        while not talk.emulator.ledger.charges:
            await talk.post(BALANCE)
        assert not waiting.done()
    with pytest.raises((aiohttp.ClientError, asyncio.CancelledError)):
        await waiting


async def test_a_stall_is_over_when_its_sender_leaves() -> None:
    """Nothing of the request is kept: whoever tests a client's timeouts all day does not fill the memory."""
    async with talking(faults=[Rule(Fault.STALL, times=1)]) as talk:
        before = asyncio.all_tasks()
        waiting = asyncio.create_task(talk.submit())
        while not talk.emulator.ledger.charges:
            await asyncio.wait([waiting], timeout=0.01)
        waiting.cancel()
        left = asyncio.all_tasks() - before
        _, pending = await asyncio.wait(left, timeout=10)
        assert len(left) > 1
        assert not pending


async def test_a_gateways_page_and_cut_json() -> None:
    """A gateway's page comes with its code as HTML; cut JSON is no JSON; both after the job was taken."""
    rules = [Rule(Fault.HTML_502, times=1), Rule(Fault.TRUNCATED_JSON, times=1)]
    async with talking(faults=rules) as talk:
        replies = []
        for _ in rules:
            inline = {"key": KEY, "prompt": "p", "base64": True, "init_image": base64.b64encode(ROCKET).decode()}
            async with talk.session.post(talk.emulator.url + SUBMIT, json=inline) as response:
                replies.append((response.status, response.content_type, await response.text()))
        assert [reply[:2] for reply in replies] == [(502, "text/html"), (200, "application/json")]
        with pytest.raises(json.JSONDecodeError):
            json.loads(replies[1][2])
        assert len(talk.emulator.ledger.charges) == 2


async def test_a_broken_download() -> None:
    """The connection breaks in the middle of the file; what came is its start, and a range brings the rest."""
    async with talking(faults=[Rule(Fault.BROKEN_DOWNLOAD, times=1)]) as talk:
        _, reply = await talk.submit()
        job_id, link = reply["id"], reply["future_links"][0]
        await talk.polled(job_id)
        got, promised = b"", 0
        while not got:
            async with talk.session.get(link) as response:
                if response.status == 200:
                    promised = int(response.headers["Content-Length"])
                    with pytest.raises(aiohttp.ClientError):
                        async for chunk in response.content.iter_any():
                            got += chunk
        assert 0 < len(got) < promised
        status, rest = await talk.get(link, Range=f"bytes={len(got)}-")
        assert (status, got + rest) == (206, (await talk.get(link))[1])


# --- alone ---


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
async def test_alone(end: signal.Signals) -> None:
    """`python -m modelslab_async.emulator` says where it is and what it is not, serves, and ends when it is told."""
    command = [sys.executable, "-W", "error", "-m", "modelslab_async.emulator", "--port", "0", "--speed", "100"]
    async with asyncio.timeout(20):
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout
            words = (await process.stdout.readline()).decode()
            assert "not ModelsLab" in words
            url = next(word for word in words.split() if word.startswith("http://127.0.0.1:"))
            async with aiohttp.ClientSession() as session, session.get(f"{url}/emulator/ledger") as response:
                assert (response.status, (await response.json())["charges"]) == (200, [])
            process.send_signal(end)
            _, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    assert (process.returncode, errors) == (0, b"")


async def test_a_port_that_is_taken() -> None:
    """Where it cannot listen it says so in one line, and ends with code 1."""
    async with talking() as talk:
        port = talk.emulator.url.rpartition(":")[2]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelslab_async.emulator", "--port", port),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        words, errors = await process.communicate()
    assert (process.returncode, words) == (1, b"")
    assert errors.startswith(f"cannot listen on 127.0.0.1:{port}: ".encode())
    assert errors.count(b"\n") == 1
