"""A webhook's URLs and tokens, and its answers to deliveries."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from helpers.webhooks import HOOKS, SECRET, RecordingListener, a_delivery, a_webhook, webhook_url_of
from helpers.world import KEY, MakeWorld, a_request
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError
from modelslab_async.webhook import MAX_BODY_BYTES, MAX_FORGED_PER_SECOND, Webhook

ANY = st.characters(codec="utf-8")


@given(ref=st.text(ANY, min_size=1), other=st.text(ANY, min_size=1))
def test_each_ref_has_its_own_url(ref: str, other: str) -> None:
    """A ref has one URL, which needs no quoting. Another secret or another ref gives another URL."""
    url = a_webhook().url(ref, "")
    assert url.startswith(f"{HOOKS}/")
    assert set(url.rpartition("/")[2]) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")
    assert url == a_webhook().url(ref, "")
    assert url != Webhook(public_url=HOOKS, secret="another secret, as long").url(ref, "")
    assert (url == a_webhook().url(other, "")) is (ref == other)
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    assert asyncio.run(webhook.handle(url, a_delivery(id=7))) == (200, b"ok")
    assert listener.received == [(ref, "7")]


@given(st.text(max_size=80))
def test_a_path_without_a_valid_token_is_answered_with_404(name: str) -> None:
    """Whatever the path is, a delivery without a valid token wakes no job."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    assert asyncio.run(webhook.handle(f"/hooks/{name}", a_delivery())) == (404, b"not found")
    assert listener.received == []


PREFIXES = ["", "/", "//", "/hooks/", "//hooks//", "/a%20b/", "https://hooks.invalid/modelslab/"]
SUFFIXES = ["", "/", "///", "?", "/?", "?a=/b.c", "/?a=b/", "#", "/#c?d", "%2F", "%3F", "%20", "/%20/"]
QUOTINGS: Sequence[Callable[[str], str]] = (
    lambda path: path,
    lambda path: path.replace(".", "%2E").replace("-", "%2d").replace("_", "%5F"),
    lambda path: "".join(f"%{ord(letter):02x}" for letter in path),
)


@given(st.sampled_from(PREFIXES), st.sampled_from(SUFFIXES), st.sampled_from(QUOTINGS), st.text(ANY, min_size=1))
def test_what_frameworks_and_proxies_add_to_a_path_makes_no_difference(
    prefix: str, suffix: str, quoted: Callable[[str], str], ref: str
) -> None:
    """A prefix, slashes, a query, a fragment and quoting change neither a valid token nor an invalid one."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    name = webhook.url(ref, "").rpartition("/")[2]
    assert asyncio.run(webhook.handle(prefix + quoted(name) + suffix, a_delivery(id=7))) == (200, b"ok")
    assert asyncio.run(webhook.handle(prefix + quoted(name[:-1]) + suffix, a_delivery(id=7))) == (404, b"not found")
    assert listener.received == [(ref, "7")]


async def test_a_forged_delivery_learns_nothing_about_refs(make_world: MakeWorld) -> None:
    """A delivery with a wrong token gets the same answer for a ref that runs and for an unknown ref."""
    webhook = a_webhook()
    async with make_world().client(webhook=webhook) as client:
        job = client.submit(a_request(track_id="mine"))
        answers, polls_before = set(), job.polls
        for url in (webhook_url_of(job), webhook.url("unknown", "")):
            token = url.rpartition(".")[2]
            forged = url.replace(token, token[::-1])
            answers.add(await webhook.handle(forged, a_delivery()))
        assert answers == {(404, b"not found")}
        assert job.polls == polls_before
        await client.aclose(drain=False)


async def test_large_bodies_and_floods_are_refused() -> None:
    """A body that is too large gets 413 and a flood of forged deliveries 429, while a valid delivery still gets 200."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    assert (await webhook.handle(webhook.url("a", ""), bytes(MAX_BODY_BYTES + 1)))[0] == 413
    forged = [(await webhook.handle("/hooks/x.y", b""))[0] for _ in range(int(MAX_FORGED_PER_SECOND) + 20)]
    assert (forged[0], forged[-1]) == (404, 429)
    assert (await webhook.handle(webhook.url("a", ""), a_delivery(id=7)))[0] == 200
    assert listener.received == [("a", "7")]


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (a_delivery(id=7), [("a", "7")]),
        (a_delivery(id="x-1"), [("a", "x-1")]),
        (a_delivery(id=None), [("a", None)]),
        (a_delivery(id=True), [("a", None)]),
        (a_delivery(id=[1]), [("a", None)]),
        (a_delivery(status="failed", id=7), [("a", "7")]),
        (a_delivery(status="processing"), []),
        (b"", [("a", None)]),
        (b"[1]", [("a", None)]),
        (b"\xff", [("a", None)]),
        (b"[" * 60_000, [("a", None)]),
    ],
)
async def test_only_the_status_and_the_id_of_a_delivery_count(content: bytes, received: list[Any]) -> None:
    """A delivery is passed on with the id in it, if there is one, unless it says that the job still runs."""
    webhook, listener = a_webhook(), RecordingListener()
    webhook.register(listener, "")
    assert (await webhook.handle(webhook.url("a", ""), content))[0] == 200
    assert listener.received == received


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
def test_bad_arguments_are_refused(arguments: Any, field: str) -> None:
    """A bad URL or secret is refused with one problem, and the secret is not shown."""
    with pytest.raises(InvalidRequestError, match=field) as caught:
        Webhook(**arguments)
    assert "short" not in str(caught.value)
    assert SECRET not in repr(a_webhook())


async def test_neither_the_key_nor_the_secret_is_shown(make_world: MakeWorld) -> None:
    """No URL, answer or repr holds the API key or the webhook's secret."""
    webhook = a_webhook()
    async with make_world().client(webhook=webhook, rng=random.Random(1)) as client:
        shown = [webhook.url("a", ""), repr(webhook), repr(client), str(await webhook.handle("/x", b"{}"))]
    assert not any(hidden in text for hidden in (KEY, SECRET) for text in shown)
