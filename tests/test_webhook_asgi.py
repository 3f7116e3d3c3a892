"""A webhook as an ASGI application."""

from __future__ import annotations

import asyncio
from itertools import repeat

import pytest
from helpers.asgi import Message, body_part, messages_sent, receive_of, status_of, unread
from helpers.webhooks import RecordingListener, a_delivery, a_webhook
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from modelslab_async.webhook import MAX_BODY_BYTES, MAX_BODY_SECONDS, Webhook


def path_of(webhook: Webhook) -> str:
    return webhook.url("a", "").removeprefix("https://hooks.invalid")


@pytest.mark.parametrize("path", ["/modelslab/x.y", "/", "", "/modelslab/" + "x" * 70_000])
async def test_the_body_of_a_forged_delivery_is_not_read(path: str) -> None:
    """A wrong token in the path, and a method other than POST, are answered before the body is read."""
    assert await status_of(a_webhook(), path, unread) == 404
    assert await status_of(a_webhook(), path_of(a_webhook()), unread, method="GET") == 405


@pytest.mark.looptime
@pytest.mark.parametrize("parts", [0, 1, 3])
async def test_a_body_that_does_not_end_is_answered_after_5_s(parts: int) -> None:
    """Whether the body stops or trickles, the answer after 5 s is 408, and no job is woken."""
    webhook, listener, loop = a_webhook(), RecordingListener(), asyncio.get_running_loop()
    webhook.register(listener, "")
    stopped, started_at = receive_of(*repeat(body_part(b"{", more=True), parts)), loop.time()
    assert await status_of(webhook, path_of(webhook), stopped) == 408
    assert loop.time() - started_at == pytest.approx(MAX_BODY_SECONDS)

    async def trickling() -> Message:
        await asyncio.sleep(1)
        return body_part(b" ", more=True)

    started_at = loop.time()
    assert await status_of(webhook, path_of(webhook), trickling) == 408
    assert loop.time() - started_at == pytest.approx(MAX_BODY_SECONDS)
    assert listener.received == []


async def test_parts_that_come_without_a_pause_do_not_block_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server whose messages come without a pause does not stop the event loop."""
    monkeypatch.setattr("modelslab_async.webhook.MAX_BODY_SECONDS", 0.01)

    async def without_pause() -> Message:
        return body_part(b"", more=True)

    assert await status_of(a_webhook(), path_of(a_webhook()), without_pause) == 408


async def test_reading_stops_once_the_body_is_too_large() -> None:
    """An endless body is answered with 413 as soon as it is too large."""
    count = 0

    async def endless() -> Message:
        nonlocal count
        count += 1
        return body_part(bytes(1000), more=True)

    assert await status_of(a_webhook(), path_of(a_webhook()), endless) == 413
    assert count == MAX_BODY_BYTES // 1000 + 1


@pytest.mark.parametrize("parts", [0, 1])
async def test_a_sender_that_disconnects_gets_no_answer(parts: int) -> None:
    """A sender that disconnects before the end of its body gets no answer, wakes no job, and causes no error."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    disconnected = receive_of(*repeat(body_part(b"{}", more=True), parts), {"type": "http.disconnect"})
    assert await messages_sent(webhook, path_of(webhook), disconnected) == []
    assert listener.received == []


@pytest.mark.parametrize("error", [OSError("closed"), ConnectionResetError(), BrokenPipeError()])
async def test_a_sender_that_disconnects_before_the_answer_causes_no_error(error: OSError) -> None:
    """If the server raises OSError for a closed connection, a delivery that was read still counts."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")

    async def send(_: Message) -> None:
        raise error

    async def receive() -> Message:
        raise error

    scope = {"type": "http", "method": "POST", "path": path_of(webhook)}
    await webhook(scope, receive_of(body_part(a_delivery())), send)
    await webhook(scope, receive, send)
    assert listener.received == [("a", "1")]


async def test_a_websocket_is_refused() -> None:
    """A websocket's handshake is closed before it is accepted, which servers answer with 403."""
    connecting = receive_of({"type": "websocket.connect"})
    sent = await messages_sent(a_webhook(), path_of(a_webhook()), connecting, type="websocket")
    assert sent == [{"type": "websocket.close"}]


async def test_a_lifespan_is_completed() -> None:
    """Served by itself, a webhook answers the start and the shutdown of the server, and then ends."""
    lifespan = receive_of({"type": "lifespan.startup"}, {"type": "lifespan.shutdown"})
    sent = await messages_sent(a_webhook(), "", lifespan, type="lifespan")
    assert sent == [{"type": "lifespan.startup.complete"}, {"type": "lifespan.shutdown.complete"}]


@pytest.mark.parametrize("root", ["", "/app", "/app/"])
@pytest.mark.parametrize("after", ["", "/", "//"])
async def test_a_webhook_may_be_mounted_anywhere(root: str, after: str) -> None:
    """The path may hold the prefixes of applications, and slashes at its end."""
    webhook = a_webhook()
    app = Starlette(routes=[Mount("/modelslab", webhook)])
    path = root.rstrip("/") + path_of(webhook) + after
    assert await status_of(app, path, receive_of(body_part(a_delivery())), root_path=root.rstrip("/")) == 200
    assert await status_of(webhook, path, receive_of(body_part(a_delivery())), root_path=root) == 200
    assert await status_of(app, f"{root.rstrip('/')}/modelslab/x.y{after}", unread, root_path=root.rstrip("/")) == 404


@given(st.text() | st.just(""), st.binary(max_size=300), st.lists(st.binary(max_size=50), max_size=5))
def test_any_path_and_any_body_are_answered(path: str, content: bytes, parts: list[bytes]) -> None:
    """Any path and any body get an answer, and nothing is raised."""
    webhook = a_webhook()
    webhook.register(RecordingListener(), "")

    async def send_all() -> None:
        for target in (path, path_of(webhook), f"{path_of(webhook)}/{path}"):
            messages = [*(body_part(part, more=True) for part in parts), body_part(content)]
            assert await status_of(webhook, target, receive_of(*messages)) in (200, 404, 429)
            assert (await webhook.handle(target, content))[0] in (200, 404, 429)

    asyncio.run(send_all())
