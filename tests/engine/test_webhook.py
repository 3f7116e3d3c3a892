"""Webhooks: what a delivery may do, and what it may not; on virtual time, with the emulator's deliveries."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from itertools import repeat
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from helpers.inside import events_of
from helpers.world import KEY, World, a_request
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from modelslab_async import Client, InvalidRequestError, Job, JobDetachedError, JobState, SubmitUncertainError, Timeouts
from modelslab_async.emulator import Fault, Rule
from modelslab_async.emulator.replies import Delivery
from modelslab_async.engine.deliveries import DeliveryHandler
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.webhook import MAX_BODY_BYTES, MAX_BODY_SECONDS, MAX_FORGED_PER_SECOND, Webhook

MakeWorld = Callable[..., World]
S = JobState
SECRET = "a secret that is long enough"
ANY = st.characters(codec="utf-8")
HOOKS = "https://hooks.invalid/modelslab"
virtual = pytest.mark.looptime


def a_webhook() -> Webhook:
    return Webhook(public_url=HOOKS, secret=SECRET)


def body(**told: Any) -> bytes:
    return json.dumps({"status": "success", "id": 1, **told}).encode()


def url_of(job: Job) -> str:
    assert job.request is not None
    assert job.request.webhook is not None
    return job.request.webhook


class Ear(DeliveryHandler):
    """A listener that writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, str | None]] = []

    def knows(self, ref: str) -> bool:
        return ref == "known"

    def receive(self, ref: str, job_id: str | None) -> None:
        self.heard.append((ref, job_id))


@attrs.define
class Mail:
    """Carries the emulator's deliveries to webhooks of clients."""

    webhooks: list[Webhook]
    answers: list[int] = attrs.field(factory=list[int])
    tasks: set[asyncio.Task[None]] = attrs.field(factory=set[asyncio.Task[None]])

    def __call__(self, delivery: Delivery) -> None:
        task = asyncio.ensure_future(self.carry(delivery))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def carry(self, delivery: Delivery) -> None:
        for webhook in self.webhooks:
            status, _ = await webhook.handle(delivery.url, json.dumps(delivery.payload).encode())
            self.answers.append(status)


@asynccontextmanager
async def called(here: World, **options: Any) -> AsyncIterator[tuple[Client, Webhook]]:
    """A client whose webhook the emulator reaches."""
    webhook = a_webhook()
    here.transport.deliver = Mail([webhook])
    async with here.client(webhook=webhook, **options) as client:
        yield client, webhook


# --- who may wake ---


@given(ref=st.text(ANY, min_size=1), other=st.text(ANY, min_size=1))
def test_a_url_belongs_to_its_ref(ref: str, other: str) -> None:
    """Each ref has one URL, in which nothing needs quoting; another secret, or another ref, gives another."""
    url = a_webhook().url(ref, "")
    assert url.startswith(f"{HOOKS}/")
    assert set(url.rpartition("/")[2]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert url == a_webhook().url(ref, "")
    assert url != Webhook(public_url=HOOKS, secret="another secret, as long").url(ref, "")
    assert (url == a_webhook().url(other, "")) is (ref == other)
    assert a_webhook()._named(url.rpartition("/")[2]) == f"/{ref}"


@given(st.text(max_size=80))
def test_what_was_not_made_with_the_secret_is_not_found(name: str) -> None:
    """Whatever is sent: 404, and nobody is woken."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")
    assert asyncio.run(webhook.handle(f"/hooks/{name}", body())) == (404, b"not found")
    assert ear.heard == []


BEFORE = ["", "/", "//", "/hooks/", "//hooks//", "/a%20b/", "https://hooks.invalid/modelslab/"]
AFTER = ["", "/", "///", "?", "/?", "?a=/b.c", "/?a=b/", "#", "/#c?d", "%2F", "%3F", "%20", "/%20/"]
QUOTINGS: Sequence[Callable[[str], str]] = (
    lambda path: path,
    lambda path: path.replace(".", "%2E").replace("-", "%2d").replace("_", "%5F"),
    lambda path: "".join(f"%{ord(letter):02x}" for letter in path),
)


@given(st.sampled_from(BEFORE), st.sampled_from(AFTER), st.sampled_from(QUOTINGS), st.text(ANY, min_size=1))
def test_a_path_as_frameworks_and_proxies_write_it(
    before: str, after: str, quoted: Callable[[str], str], ref: str
) -> None:
    """A prefix, slashes, a query, a fragment and quoting make no difference: neither to a token nor to a wrong one."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")
    name = webhook.url(ref, "").rpartition("/")[2]
    assert asyncio.run(webhook.handle(before + quoted(name) + after, body(id=7))) == (200, b"ok")
    assert asyncio.run(webhook.handle(before + quoted(name[:-1]) + after, body(id=7))) == (404, b"not found")
    assert ear.heard == [(ref, "7")]


@virtual
async def test_the_look_leaves_before_the_answer(world: MakeWorld) -> None:
    """A delivery is answered once the request that it leads to is on its way: nobody waits for an answer's making."""
    here, webhook = world(), a_webhook()
    async with here.client(webhook=webhook) as client:
        job = client.submit(a_request())
        await job.submitted()
        looks = here.count("/fetch/")
        assert await webhook.handle(url_of(job), body()) == (200, b"ok")
        assert here.count("/fetch/") == looks + 1


async def test_known_and_unknown_refs_are_answered_alike(world: MakeWorld) -> None:
    """Who has no token learns nothing: the same answer for a ref that runs and for one that nobody knows."""
    webhook = a_webhook()
    async with world().client(webhook=webhook) as client:
        job = client.submit(a_request(track_id="mine"))
        answers, polls = set(), job.polls
        for url in (url_of(job), webhook.url("nobody's", "")):
            token = url.rpartition(".")[2]
            forged = url.replace(token, token[::-1])
            answers.add(await webhook.handle(forged, body()))
        assert answers == {(404, b"not found")}
        assert job.polls == polls
        await client.aclose(drain=False)


async def test_limits() -> None:
    """A body that is too large, and a flood of forged deliveries, are turned away; true ones still come through."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")
    assert (await webhook.handle(webhook.url("a", ""), bytes(MAX_BODY_BYTES + 1)))[0] == 413
    forged = [(await webhook.handle("/hooks/x.y", b""))[0] for _ in range(int(MAX_FORGED_PER_SECOND) + 20)]
    assert (forged[0], forged[-1]) == (404, 429)
    assert (await webhook.handle(webhook.url("a", ""), body(id=7)))[0] == 200
    assert ear.heard == [("a", "7")]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (body(id=7), [("a", "7")]),
        (body(id="x-1"), [("a", "x-1")]),
        (body(id=None), [("a", None)]),
        (body(id=True), [("a", None)]),
        (body(id=[1]), [("a", None)]),
        (body(status="failed", id=7), [("a", "7")]),
        (body(status="processing"), []),
        (b"", [("a", None)]),
        (b"[1]", [("a", None)]),
        (b"\xff", [("a", None)]),
        (b"[" * 60_000, [("a", None)]),
    ],
)
async def test_whatever_a_delivery_says(content: bytes, told: list[Any]) -> None:
    """It wakes, unless it says that the job still runs; only its id is taken from it."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")
    assert (await webhook.handle(webhook.url("a", ""), content))[0] == 200
    assert ear.heard == told


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"public_url": "example.com/hooks", "secret": SECRET}, "public_url=.*must be an http"),
        ({"public_url": None, "secret": SECRET}, "public_url=.*must be an http"),
        ({"public_url": f"{HOOKS}?tenant=1", "secret": SECRET}, "public_url=.*cannot have a query"),
        ({"public_url": f"{HOOKS}?", "secret": SECRET}, "public_url=.*cannot have a query"),
        ({"public_url": f"{HOOKS}#part", "secret": SECRET}, "public_url=.*a fragment"),
        ({"public_url": HOOKS, "secret": "short"}, "secret"),
        ({"public_url": HOOKS, "secret": 7}, "secret"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: Any, field: str) -> None:
    """They are refused by one problem, and the secret is not shown."""
    with pytest.raises(InvalidRequestError, match=field) as caught:
        Webhook(**arguments)
    assert "short" not in str(caught.value)
    assert SECRET not in repr(a_webhook())


# --- as an ASGI application ---


Message = MutableMapping[str, Any]


def a_part(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.request", "body": content, "more_body": more}


async def answered(
    app: Callable[..., Awaitable[None]], path: str, receive: Callable[[], Awaitable[Message]], **scope: Any
) -> list[Message]:
    """Return what an ASGI application sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    usual = {"type": "http", "method": "POST", "path": path, "headers": [], "query_string": b"", "root_path": ""}
    await app({**usual, **scope}, receive, send)
    return sent


async def status_of(
    app: Callable[..., Awaitable[None]], path: str, receive: Callable[[], Awaitable[Message]], **scope: Any
) -> int:
    """Return the status of an answer, which must be whole."""
    start, end = await answered(app, path, receive, **scope)
    assert (start["type"], end["type"], end.get("more_body", False)) == (
        "http.response.start",
        "http.response.body",
        False,
    )
    assert dict(start["headers"])[b"content-length"] == str(len(end["body"])).encode()
    return int(start["status"])


def sender(*parts: Message) -> Callable[[], Awaitable[Message]]:
    """Return a `receive` that gives these messages, and then waits for ever."""
    left = list(parts)

    async def receive() -> Message:
        if not left:
            await asyncio.Event().wait()
        return left.pop(0)

    return receive


async def unread() -> Message:
    raise AssertionError("the body was read")


def path_of(webhook: Webhook, ref: str = "a") -> str:
    return webhook.url(ref, "").removeprefix("https://hooks.invalid")


@pytest.mark.parametrize("path", ["/modelslab/x.y", "/", "", "/modelslab/" + "x" * 70_000])
async def test_the_body_of_a_forged_delivery_is_not_read(path: str) -> None:
    """The token in the path is checked first, and a wrong one is answered at once."""
    assert await status_of(a_webhook(), path, unread) == 404
    assert await status_of(a_webhook(), path_of(a_webhook()), unread, method="GET") == 405


@virtual
@pytest.mark.parametrize("parts", [0, 1, 3])
async def test_a_body_that_does_not_end_is_answered_in_time(parts: int) -> None:
    """After 5 s the answer is 408, and nothing was woken: whether the body stops or trickles."""
    webhook, ear, loop = a_webhook(), Ear(), asyncio.get_running_loop()
    webhook.register(ear, "")
    stopped, begun = sender(*repeat(a_part(b"{", more=True), parts)), loop.time()
    assert await status_of(webhook, path_of(webhook), stopped) == 408
    assert loop.time() - begun == pytest.approx(MAX_BODY_SECONDS)

    async def trickling() -> Message:
        await asyncio.sleep(1)
        return a_part(b" ", more=True)

    begun = loop.time()
    assert await status_of(webhook, path_of(webhook), trickling) == 408
    assert loop.time() - begun == pytest.approx(MAX_BODY_SECONDS)
    assert ear.heard == []


async def test_empty_parts_without_a_pause_are_answered_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose messages come without a pause does not stop the event loop."""
    monkeypatch.setattr("modelslab_async.webhook.MAX_BODY_SECONDS", 0.01)

    async def hasty() -> Message:
        return a_part(b"", more=True)

    assert await status_of(a_webhook(), path_of(a_webhook()), hasty) == 408


async def test_no_more_than_the_allowed_body_is_read() -> None:
    """A body of any length is answered with 413 once it is too large."""
    count = 0

    async def endless() -> Message:
        nonlocal count
        count += 1
        return a_part(bytes(1000), more=True)

    assert await status_of(a_webhook(), path_of(a_webhook()), endless) == 413
    assert count == MAX_BODY_BYTES // 1000 + 1


@pytest.mark.parametrize("parts", [0, 1])
async def test_a_sender_that_goes_away_is_answered_with_silence(parts: int) -> None:
    """A sender that leaves before its body is whole gets no answer, wakes no job, and raises nothing."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")
    gone = sender(*repeat(a_part(b"{}", more=True), parts), {"type": "http.disconnect"})
    assert await answered(webhook, path_of(webhook), gone) == []
    assert ear.heard == []


@pytest.mark.parametrize("error", [OSError("closed"), ConnectionResetError(), BrokenPipeError()])
async def test_a_sender_that_goes_away_before_the_answer_raises_nothing(error: OSError) -> None:
    """A server may raise an OSError when the connection is closed: the delivery counts all the same."""
    webhook, ear = a_webhook(), Ear()
    webhook.register(ear, "")

    async def send(_: Message) -> None:
        raise error

    async def receive() -> Message:
        raise error

    scope = {"type": "http", "method": "POST", "path": path_of(webhook)}
    await webhook(scope, sender(a_part(body())), send)
    await webhook(scope, receive, send)
    assert ear.heard == [("a", "1")]


async def test_a_websocket_is_closed() -> None:
    """A handshake is refused, rather than left without an answer."""
    sent = await answered(a_webhook(), path_of(a_webhook()), unread, type="websocket")
    assert sent == [{"type": "websocket.close"}]


@pytest.mark.parametrize("root", ["", "/app", "/app/"])
@pytest.mark.parametrize("after", ["", "/", "//"])
async def test_a_mounted_application_finds_its_path(root: str, after: str) -> None:
    """The path may have the prefixes of applications or not, and slashes at its end."""
    webhook = a_webhook()
    app = Starlette(routes=[Mount("/modelslab", webhook)])
    path = root.rstrip("/") + path_of(webhook) + after
    assert await status_of(app, path, sender(a_part(body())), root_path=root.rstrip("/")) == 200
    assert await status_of(webhook, path, sender(a_part(body())), root_path=root) == 200
    assert await status_of(app, f"{root.rstrip('/')}/modelslab/x.y{after}", unread, root_path=root.rstrip("/")) == 404


@given(st.text() | st.just(""), st.binary(max_size=300), st.lists(st.binary(max_size=50), max_size=5))
def test_any_bytes_are_answered(path: str, content: bytes, parts: list[bytes]) -> None:
    """Any path and any body are answered, and nothing is raised."""
    webhook = a_webhook()
    webhook.register(Ear(), "")

    async def sent() -> None:
        for where in (path, path_of(webhook), f"{path_of(webhook)}/{path}"):
            messages = [*(a_part(part, more=True) for part in parts), a_part(content)]
            assert await status_of(webhook, where, sender(*messages)) in (200, 404, 429)
            assert (await webhook.handle(where, content))[0] in (200, 404, 429)

    asyncio.run(sent())


# --- as a handler of aiohttp ---


@attrs.frozen
class Served:
    """A webhook behind aiohttp, and what its listener heard."""

    port: int
    webhook: Webhook
    heard: list[tuple[str, str | None]]

    async def sent(self, *packets: bytes, leaves: bool = False) -> bytes:
        """Return the first line of the answer to these bytes; b"" if there is none, or the sender leaves."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        for packet in packets:
            writer.write(packet)
            await writer.drain()
        if leaves:
            writer.transport.abort()
        answer = await reader.readline() if not leaves else b""
        writer.close()
        return answer.strip()


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Served]:
    """Serve a webhook on loopback, in real time: a body may take 0.2 s."""
    monkeypatch.setattr("modelslab_async.webhook.MAX_BODY_SECONDS", 0.2)
    webhook, ear, app = a_webhook(), Ear(), web.Application()
    webhook.register(ear, "")
    app.router.add_post("/modelslab/{name:.+}", webhook.aiohttp)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Served(runner.addresses[0][1], webhook, ear.heard)
    await runner.cleanup()


def a_post(path: str, *headers: str) -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: x", *headers, "", ""]).encode()


FORGED = "/modelslab/x.y"
GZIP = ("Content-Encoding: gzip", "Content-Length: 10")


async def test_aiohttp_answers_a_delivery(served: Served) -> None:
    """A slash at the end and a query make no difference."""
    path = path_of(served.webhook)
    for written in (path, f"{path}/", f"{path}?", f"{path}/?a=b"):
        assert await served.sent(a_post(written, "Content-Length: 9"), b'{"id": 7}') == b"HTTP/1.1 200 OK"
    assert served.heard == [("a", "7")] * 4


async def test_aiohttp_does_not_read_the_body_of_a_forged_delivery(served: Served) -> None:
    """A wrong token is answered though its body never comes; a right one is waited for, but not for long."""
    assert await served.sent(a_post(FORGED, "Content-Length: 9")) == b"HTTP/1.1 404 Not Found"
    assert (
        await served.sent(a_post(path_of(served.webhook), "Content-Length: 9"), b"{") == b"HTTP/1.1 408 Request Timeout"
    )
    assert served.heard == []


@pytest.mark.parametrize("path", [FORGED, path_of(a_webhook())], ids=["forged", "true"])
@pytest.mark.parametrize(
    ("packets", "leaves"),
    [
        ([a_post("{}", *GZIP) + b"0123456789"], False),
        ([a_post("{}", "Content-Length: 1000"), b"{"], True),
        ([a_post("{}", "Transfer-Encoding: chunked"), b"3\r\n{"], True),
    ],
    ids=["broken gzip", "leaves", "leaves in a chunk"],
)
async def test_aiohttp_is_quiet_about_broken_bodies(
    served: Served, caplog: pytest.LogCaptureFixture, path: str, packets: list[bytes], leaves: bool
) -> None:
    """A body that cannot be read, or whose sender leaves, is neither an error of the server nor a line in its log."""
    answer = await served.sent(*(packet.replace(b"{}", path.encode(), 1) for packet in packets), leaves=leaves)
    assert await served.sent(a_post(FORGED)) == b"HTTP/1.1 404 Not Found"
    assert answer.split(b" ")[1:2] in ([[], [b"400"], [b"404"], [b"408"]])
    assert served.heard == []
    assert [record for record in caplog.records if record.levelname in ("WARNING", "ERROR", "CRITICAL")] == []


@pytest.mark.parametrize("packet", [b"3\r\nabcdef\r\n", b"zz\r\n", b"-1\r\n\r\n"])
async def test_broken_chunks_are_no_error_of_the_handler(served: Served, packet: bytes) -> None:
    """A broken chunk is refused by aiohttp itself, or by the bound on the body's time."""
    answer = await served.sent(a_post(path_of(served.webhook), "Transfer-Encoding: chunked"), packet)
    assert answer.split(b" ")[1] in (b"400", b"408")
    assert served.heard == []


# --- what it leads to ---


@virtual
async def test_a_delivery_wakes_its_job(world: MakeWorld) -> None:
    """The end is seen when it is told; a request's own webhook is left as it is."""
    here = world()
    async with called(here) as (client, _):
        job, own = client.submit(a_request()), client.submit(a_request(webhook="https://mine.invalid/x"))
        await job
        [order, other] = here.service.jobs.values()
        seen = next(news.elapsed for news in await events_of(job) if news.state is S.READY)
        assert order.done_at <= seen <= order.done_at + 0.5
        assert order.params["webhook"].startswith(HOOKS)
        assert other.params["webhook"] == "https://mine.invalid/x"
        await own


FAULTS = [Fault.WEBHOOK_TWICE, Fault.WEBHOOK_LATE, Fault.WEBHOOK_FORGED, Fault.WEBHOOK_MISSING]


@virtual
@pytest.mark.parametrize("fault", FAULTS)
async def test_deliveries_that_go_wrong_do_no_harm(world: MakeWorld, fault: Fault) -> None:
    """Twice, late, with a lie in it, or never: every job ends READY, with few looks."""
    here = world(faults=[Rule(fault, rate=0.5)], queue_limit=5)
    async with called(here) as (client, _):
        jobs = [client.submit(a_request(seed=seed)) for seed in range(20)]
        await asyncio.gather(*jobs)
    assert {job.state for job in jobs} == {S.READY}
    assert here.count("/fetch/") <= 12 * len(jobs)


@virtual
async def test_a_flood_of_repeated_deliveries_costs_a_look_a_second(world: MakeWorld) -> None:
    """Somebody who saw a URL can repeat it: the service is not asked more often for that than once a second."""
    here = world()
    async with called(here) as (client, webhook):
        job = client.submit(a_request())
        await job.submitted()
        begun, looks = asyncio.get_running_loop().time(), here.count("/fetch/")
        for _ in range(1000):
            await webhook.handle(url_of(job), body(status="success"))
            await asyncio.sleep(0.01)
        passed = asyncio.get_running_loop().time() - begun
        assert 5 <= here.count("/fetch/") - looks <= passed + 2
        await job


@virtual
async def test_an_early_delivery_is_kept(world: MakeWorld) -> None:
    """One that comes before the reply to the submit leads to a look right after it."""
    here = world()
    async with called(here) as (client, webhook):
        job = client.submit(a_request())
        await asyncio.sleep(0)
        assert job.state is S.SUBMITTING
        await webhook.handle(url_of(job), body())
        await job.submitted()
        await asyncio.sleep(0.5)
        assert here.count("/fetch/") == 1
        await job


@virtual
async def test_waiting_relies_on_deliveries_that_come(world: MakeWorld) -> None:
    """Once some ends in a row were told there is hardly a look before the end; when they stop, looks come back."""
    here = world()
    async with called(here, max_in_flight=1) as (client, _):
        for seed in range(5):
            await client.generate(a_request(seed=seed))
        before = here.count("/fetch/")
        for seed in range(5):
            await client.generate(a_request(seed=10 + seed))
        assert here.count("/fetch/") - before == 5
        here.transport.deliver = None
        latest = []
        for seed in range(3):
            job = client.submit(a_request(seed=20 + seed))
            await job
            order = list(here.service.jobs.values())[-1]
            latest.append(asyncio.get_running_loop().time() - order.done_at)
            await asyncio.sleep(15)
        assert latest[0] <= 61
        assert max(latest[1:]) <= 15


# --- lost replies ---


@virtual
async def test_a_delivery_makes_an_uncertain_job_a_known_one(world: MakeWorld, tmp_path: Path) -> None:
    """The reply to its submit was lost; its webhook tells that it was taken. It is paid for once."""
    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        states = [news.state async for news in job.events()]
        video = await job
        record = await client.find(job.ref)
    assert states[:4] == [S.WAITING, S.SUBMITTING, S.UNCERTAIN, S.PROCESSING]
    assert states[-1] is S.READY
    assert video.id == str(here.service.ledger.charges[0].job_id)
    assert record is not None
    assert (record.state, record.charged, record.error, record.job_id) == (S.READY, True, None, video.id)
    assert len(here.service.ledger.charges) == 1


@virtual
async def test_an_uncertain_job_of_which_nobody_hears_stays_so(world: MakeWorld) -> None:
    """After some minutes it ends as uncertain, and is never sent again; closing the client ends it too."""
    here = world(faults=[Rule(Fault.RESET_BEFORE, times=2)])
    async with called(here) as (client, _):
        first = client.submit(a_request())
        with pytest.raises(SubmitUncertainError):
            await first
        assert asyncio.get_running_loop().time() >= 600
        second = client.submit(a_request())
        await asyncio.sleep(1)
        assert (second.state, second.done()) == (S.UNCERTAIN, False)
        await client.aclose(drain=False)
        assert isinstance(second.exception(), SubmitUncertainError)
    assert here.service.ledger.charges == []
    assert here.count("img2video_ultra") == 2


@virtual
async def test_a_delivery_after_a_restart(world: MakeWorld, tmp_path: Path) -> None:
    """What a process that died left PROCESSING or UNCERTAIN is collected by who receives the delivery."""
    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    here.transport.deliver = mail = Mail([])
    async with here.client(journal=tmp_path / "jobs.db", webhook=a_webhook()) as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(2)]
        await jobs[1].submitted()
        await client.aclose(drain=False)
    mail.webhooks.append(a_webhook())
    async with here.client(journal=tmp_path / "jobs.db", webhook=mail.webhooks[0]) as client:
        await asyncio.sleep(300)
        records = [await client.find(job.ref) for job in jobs]
    assert [record and record.state for record in records] == [S.READY, S.READY]
    assert len(here.service.ledger.charges) == 2


@virtual
async def test_a_delivery_reaches_the_owner_through_the_journal(world: MakeWorld, tmp_path: Path) -> None:
    """Two processes share URL and journal: whichever receives it, the one that submitted sees the end soon."""
    here, mine, other = world(), a_webhook(), a_webhook()
    here.transport.deliver = Mail([other])
    journal = tmp_path / "jobs.db"
    async with here.client(journal=journal, webhook=mine) as owner, here.client(journal=journal, webhook=other):
        late = 0.0
        for seed in range(6):
            job = owner.submit(a_request(seed=seed))
            await job
            late = asyncio.get_running_loop().time() - list(here.service.jobs.values())[-1].file_at
        assert late <= 2.0
        looks = here.count("/fetch/")
        await owner.generate(a_request(seed=7))
        assert here.count("/fetch/") == looks + 1


@virtual
async def test_a_late_word_reaches_an_owner_that_is_idle(world: MakeWorld, tmp_path: Path) -> None:
    """An uncertain job of which another process hears after its owner gave it up is collected all the same."""
    here, mine, other = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), a_webhook(), a_webhook()
    journal = tmp_path / "jobs.db"
    async with here.client(journal=journal, webhook=mine) as owner, here.client(journal=journal, webhook=other):
        job = owner.submit(a_request())
        with pytest.raises(SubmitUncertainError):
            await job
        charge = here.service.ledger.charges[0]
        assert await other.handle(url_of(job), body(id=charge.job_id)) == (200, b"ok")
        await asyncio.sleep(60)
        record = await owner.find(job.ref)
    assert record is not None
    assert (record.state, record.job_id) == (S.READY, str(charge.job_id))


@virtual
async def test_an_owner_of_which_nobody_can_tell_keeps_its_word_and_no_other(world: MakeWorld, tmp_path: Path) -> None:
    """Its presence cannot be read: that hides no word from others, loses none, and its own stays."""
    here, journal = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "jobs.db"
    async with called(here, journal=journal) as (client, _):
        job, file = await waits_for_word(here, client), client.journal
        record = await client.find(job.ref)
        assert isinstance(file, SqliteJournal)
        assert record is not None
        for owner in ("0" * 16, "z" * 16):
            file.liveness.path_of(owner).mkdir()
            await file.deliver(record._replace(owner=owner), None)
        await file.deliver(record, the_id(here))
        assert (await job).id == the_id(here)
        assert len(file.store.connection.execute("SELECT 1 FROM deliveries").fetchall()) == 2


@virtual
async def test_a_word_for_an_owner_that_died_is_not_lost(world: MakeWorld, tmp_path: Path) -> None:
    """Whoever listens for the account hears it, and collects the job; what is left for one that lives stays its own."""
    here, journal = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), tmp_path / "jobs.db"
    async with called(here, journal=journal) as (client, _):
        job = await waits_for_word(here, client)
        await client.aclose(drain=False)
    async with here.client(journal=journal) as other, here.client(journal=journal) as alive:
        left, file = await other.find(job.ref), alive.journal
        assert left is not None
        assert left.state is S.UNCERTAIN
        assert isinstance(file, SqliteJournal)
        await file.deliver(left, the_id(here))  # by one that took the owner for alive
        await file.deliver(left._replace(owner=file.owner, ref="another's"), None)
        async with here.client(journal=journal, webhook=a_webhook()) as client:
            await asyncio.sleep(60)
            record = await client.find(job.ref)
        assert await file.delivered(left.account) == [("another's", None)]
    assert record is not None
    assert (record.state, record.job_id) == (S.READY, the_id(here))
    assert len(here.service.ledger.charges) == 1


@virtual
@pytest.mark.parametrize("repeated", [0.1, 30.0], ids=["before the reply is lost", "after it"])
async def test_a_late_delivery_of_an_earlier_job_with_the_same_ref(world: MakeWorld, repeated: float) -> None:
    """It names the earlier job: the later one, whose reply is lost, does not take it for its own."""
    here = world(faults=[Rule(Fault.SLOW, rate=1, times=1, seconds=0), Rule(Fault.STALL, times=1)])
    webhook = a_webhook()
    async with here.client(webhook=webhook, timeouts=Timeouts(submit=10)) as client:
        first = await client.generate(a_request(track_id="mine"))
        job = client.submit(a_request(track_id="mine", seed=2))
        await asyncio.sleep(repeated)
        for job_id in (first.id, here.service.ledger.charges[1].job_id, first.id):
            assert await webhook.handle(url_of(job), body(id=job_id)) == (200, b"ok")
        assert (await job).id != first.id
    assert len(here.service.ledger.charges) == 2


async def test_keys_stay_out_of_it(world: MakeWorld) -> None:
    """Neither key nor secret is in a URL, an answer or a repr."""
    webhook = a_webhook()
    async with world().client(webhook=webhook, rng=random.Random(1)) as client:
        shown = [webhook.url("a", ""), repr(webhook), repr(client), str(await webhook.handle("/x", b"{}"))]
    assert not any(word in text for word in (KEY, SECRET) for text in shown)


async def waits_for_word(here: World, client: Client) -> Job:
    """A job whose reply was lost, and of which a delivery may tell yet."""
    here.transport.deliver = None
    job = client.submit(a_request())
    await asyncio.sleep(60.0)
    assert job.state is S.UNCERTAIN
    return job


def the_id(here: World) -> str:
    return str(here.service.ledger.charges[0].job_id)


@virtual
async def test_a_delivery_before_the_reply_is_lost_counts_too(world: MakeWorld, tmp_path: Path) -> None:
    """The word that it was taken may come while the submit's reply is still waited for."""
    here = world(faults=[Rule(Fault.STALL, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        assert (await job).id == the_id(here)
    assert len(here.service.ledger.charges) == 1


@virtual
async def test_a_delivery_counts_where_the_client_closes_before_the_reply_is_lost(
    world: MakeWorld, tmp_path: Path
) -> None:
    """The close waits for the reply, and what a delivery told until then is not forgotten."""
    here = world(faults=[Rule(Fault.STALL, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        await asyncio.sleep(60.0)
        assert job.state is S.SUBMITTING
        await client.aclose(drain=False)
    error = job.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.job_id, error.charged) == (the_id(here), True)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        record = await client.find(job.ref)
    assert record is not None
    assert (record.state, record.job_id, record.charged) == (S.PROCESSING, the_id(here), True)


@virtual
@pytest.mark.parametrize("wait", [0, 1], ids=["in the same turn", "while another submit is under way"])
async def test_a_word_for_an_uncertain_job_counts_while_the_client_closes(
    world: MakeWorld, tmp_path: Path, wait: float
) -> None:
    """It was answered 200: so the id is known, and is in the journal."""
    here, webhook = world(faults=[Rule(Fault.RESET_AFTER, times=1), Rule(Fault.STALL, times=1)]), a_webhook()
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        job = client.submit(a_request())
        await asyncio.sleep(10)
        assert job.state is S.UNCERTAIN
        if wait:
            client.submit(a_request())
            await asyncio.sleep(1)
        closing = asyncio.create_task(client.aclose(drain=False))
        await asyncio.sleep(wait)
        told = body(id=here.service.ledger.charges[0].job_id)
        assert await webhook.handle(url_of(job), told) == (200, b"ok")
        await closing
    assert isinstance(job.exception(), JobDetachedError)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        record = await client.find(job.ref)
    assert record is not None
    assert (record.state, record.job_id) == (S.PROCESSING, the_id(here))


@virtual
async def test_a_word_counts_for_a_job_whose_reply_is_lost_while_the_client_closes(
    world: MakeWorld, tmp_path: Path
) -> None:
    """The close waits for another submit: until then the job is open, and hears that it was taken."""
    here, webhook = world(faults=[Rule(Fault.STALL, times=2)]), a_webhook()
    here.transport.deliver = None
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        job = client.submit(a_request())
        await asyncio.sleep(60)
        client.submit(a_request())
        await asyncio.sleep(40)
        closing = asyncio.create_task(client.aclose(drain=False))
        await asyncio.sleep(70)
        assert (job.state, job.done(), closing.done()) == (S.UNCERTAIN, False, False)
        assert await webhook.handle(url_of(job), body(id=the_id(here))) == (200, b"ok")
        await closing
    assert (job.id, type(job.exception())) == (the_id(here), JobDetachedError)


async def test_a_word_that_is_being_taken_from_the_journal_counts_while_the_client_closes(
    world: MakeWorld, tmp_path: Path
) -> None:
    """The close waits for the listener, which has the word in hand and took it out of the file."""
    here, mine, other = world(faults=[Rule(Fault.RESET_AFTER, times=1)]), a_webhook(), a_webhook()
    journal = tmp_path / "jobs.db"
    async with here.client(journal=journal, webhook=other), here.client(journal=journal, webhook=mine) as owner:
        job, taken, loop = owner.submit(a_request()), asyncio.Event(), asyncio.get_running_loop()
        kept = owner.journal
        assert isinstance(kept, SqliteJournal)
        delivered = kept.store.delivered

        def seen(account: str, owner: str, is_alive: Callable[[str], bool]) -> list[tuple[str, str | None]]:
            words = delivered(account, owner, is_alive)
            if words:
                loop.call_soon_threadsafe(taken.set)
            return words

        kept.store.delivered = seen  # type: ignore[method-assign]
        async for news in job.events():
            if news.state is S.UNCERTAIN:
                break
        assert await other.handle(url_of(job), body(id=the_id(here))) == (200, b"ok")
        await taken.wait()
        await owner.aclose(drain=False)
    assert (job.id, type(job.exception())) == (the_id(here), JobDetachedError)


@virtual
async def test_a_delivery_that_comes_while_the_client_closes_counts(world: MakeWorld, tmp_path: Path) -> None:
    """The close waits for the reply to the submit, and hears until then."""
    here = world(faults=[Rule(Fault.STALL, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = client.submit(a_request())
        await asyncio.sleep(1.0)
        await client.aclose(drain=False)
    error = job.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.job_id, error.charged) == (the_id(here), True)


@virtual
async def test_a_delivery_for_another_account_is_not_ours(world: MakeWorld) -> None:
    """Both use the same ref, and the reply to one of them is lost: each job ends under its own id, with its video."""
    here = world()
    async with called(here) as (client, _):
        other = await client.account("another-key-of-somebody")
        first = client.submit(a_request(track_id="order-1"))
        await first.submitted()
        await asyncio.sleep(20.0)
        here.service.set_faults([Rule(Fault.RESET_AFTER, times=1)])
        second = other.submit(a_request(track_id="order-1"))
        states = [news.state async for news in second.events()]
        videos = await asyncio.gather(first, second)
    assert S.UNCERTAIN in states
    ids = [str(charge.job_id) for charge in here.service.ledger.charges]
    assert [video.id for video in videos] == ids


@virtual
async def test_closing_while_the_word_is_written_down_keeps_the_id(world: MakeWorld, tmp_path: Path) -> None:
    """What a delivery told is not overwritten by "nobody knows"."""
    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, webhook):
        job = await waits_for_word(here, client)
        await webhook.handle(url_of(job), body(id=the_id(here)))
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        record = await client.find(job.ref)
    assert record is not None
    assert (record.job_id, record.charged) == (the_id(here), True)


@virtual
async def test_a_persons_word_ends_the_wait_for_a_delivery(world: MakeWorld, tmp_path: Path) -> None:
    """The job goes on under its id, fills one place, and nothing later takes the id from its row."""
    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = await waits_for_word(here, client)
        found = await client.resolve(job.ref, id=the_id(here))
        assert found is not None
        assert client.statistics().in_flight == 1
        await found
        await asyncio.sleep(700.0)
        assert isinstance(job.exception(), SubmitUncertainError)
        record = await client.find(job.ref)
    assert record is not None
    assert (record.state, record.job_id) == (S.READY, the_id(here))


@virtual
async def test_a_job_that_ended_in_doubt_is_let_go_of(world: MakeWorld, tmp_path: Path) -> None:
    """No timer keeps it for the minutes in which a word might have come."""
    loop: Any = asyncio.get_running_loop()

    def far() -> int:
        return sum(not timer.cancelled() and timer.when() > loop.time() + 400 for timer in loop._scheduled)

    here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        job = await waits_for_word(here, client)
        before = far()
        await client.resolve(job.ref, lost=True)
        assert isinstance(job.exception(), SubmitUncertainError)
        assert (before, far()) == (1, 0)


@virtual
async def test_a_job_is_taken_up_once(world: MakeWorld, tmp_path: Path) -> None:
    """Deliveries that come twice after a restart, and two recoveries at once, lead to one job."""
    here = world()
    async with called(here, journal=tmp_path / "jobs.db") as (client, _):
        here.transport.deliver = None
        job = client.submit(a_request())
        await job.submitted()
        await client.aclose(drain=False)
    async with called(here, journal=tmp_path / "jobs.db") as (client, webhook):
        here.transport.deliver = None
        url, told = url_of(job), body(id=the_id(here))
        found = await asyncio.gather(
            client.recover(), client.recover(), webhook.handle(url, told), webhook.handle(url, told)
        )
        assert len({*found[0].jobs, *found[1].jobs}) == 1
        assert client.statistics().in_flight == 1


@virtual
@pytest.mark.parametrize("twice", [False, True])
async def test_a_close_that_is_cancelled_pays_for_nothing_more(world: MakeWorld, tmp_path: Path, twice: bool) -> None:
    """At whatever point: no job is left without an end, and none is submitted afterwards."""
    for turns in range(12):
        here = world(faults=[Rule(Fault.RESET_AFTER, times=1)])
        async with called(here, journal=tmp_path / f"{turns}.db", max_in_flight=2) as (client, _):
            here.transport.deliver = None
            jobs = [client.submit(a_request()) for _ in range(4)]
            await asyncio.sleep(5.0)
            closing = asyncio.create_task(client.aclose(drain=False))
            for _ in range(turns):
                await asyncio.sleep(0)
            for _ in range(1 + twice):
                closing.cancel()
                await asyncio.sleep(0)
            await asyncio.wait([closing])
            paid = len(here.service.ledger.charges)
            await client.aclose(drain=False)
            await asyncio.sleep(600.0)
        assert all(job.done() for job in jobs)
        assert len(here.service.ledger.charges) == paid
