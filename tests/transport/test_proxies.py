"""The proxy of a request, chosen by the environment or by the argument."""

from __future__ import annotations

import asyncio
import random

import aiohttp
import pytest
from helpers.sockets import BALANCE, SHORT_TIMEOUTS, listening, opened_transport, respond_in_turn
from helpers.world import KEY
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import Client, ConnectError, InvalidRequestError, Timeouts
from modelslab_async.transport.proxies import from_argument, from_environment

P, Q = "http://proxy.invalid:3128", "http://other.invalid:8080"


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_PROXY".upper(), raising=False)


@pytest.mark.parametrize(
    ("environ", "url", "proxy"),
    [
        ({}, "https://a.example/x", None),
        ({"HTTPS_PROXY": P}, "https://a.example/x", P),
        ({"https_proxy": P, "HTTPS_PROXY": Q}, "https://a.example/x", P),
        ({"HTTPS_PROXY": P}, "http://a.example/x", None),
        ({"HTTP_PROXY": P}, "http://a.example/x", P),
        ({"HTTP_PROXY": P, "REQUEST_METHOD": "GET"}, "http://a.example/x", None),
        ({"http_proxy": P, "REQUEST_METHOD": "GET"}, "http://a.example/x", P),
        ({"ALL_PROXY": P}, "https://a.example/x", P),
        ({"ALL_PROXY": P, "https_proxy": Q}, "https://a.example/x", Q),
        ({"HTTPS_PROXY": " "}, "https://a.example/x", None),
    ],
)
def test_the_environment_names_a_proxy_for_each_scheme(environ: dict[str, str], url: str, proxy: str | None) -> None:
    """The variables have the meaning that curl and httpx give them."""
    assert from_environment(environ).for_url(url) == proxy


@pytest.mark.parametrize(
    ("exceptions", "url", "is_direct"),
    [
        ("a.example", "https://a.example/x", True),
        ("A.Example", "https://a.example/x", True),
        ("example", "https://a.example/x", True),
        (".example", "https://a.example/x", True),
        ("*.example", "https://a.example/x", True),
        ("ample", "https://a.example/x", False),
        ("b.example, a.example", "https://a.example/x", True),
        ("b.example a.example", "https://a.example./x", True),
        ("*", "https://a.example/x", True),
        ("a.example:443", "https://a.example/x", True),
        ("a.example:8443", "https://a.example/x", False),
        ("10.0.0.0/8", "https://10.1.2.3/x", True),
        ("10.0.0.0/8", "https://11.1.2.3/x", False),
        ("2001:db8::/32", "https://[2001:db8::5]/x", True),
        ("[2001:db8::5]:443", "https://[2001:db8::5]/x", True),
        ("", "https://a.example/x", False),
        (",,", "https://a.example/x", False),
    ],
)
def test_no_proxy_lists_exceptions(exceptions: str, url: str, is_direct: bool) -> None:
    """An exception is a domain with its subdomains, an address or a network, each perhaps with a port; or "*"."""
    proxies = from_environment({"HTTPS_PROXY": P, "NO_PROXY": exceptions})
    assert (proxies.for_url(url) is None) == is_direct


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]"])
def test_loopback_never_goes_through_a_proxy(host: str) -> None:
    """An emulator on this machine is reached directly, so no proxy sees the key."""
    for proxies in (from_environment({"ALL_PROXY": P}), from_argument(P)):
        assert proxies.for_url(f"http://{host}:8000/x") is None
        assert not list(from_environment({"ALL_PROXY": "socks5://x"}).problems(f"http://{host}:8000"))


@given(st.text(), st.text())
def test_no_value_in_the_environment_raises(exceptions: str, proxy: str) -> None:
    """Whatever the variables hold, a request either has a proxy or has none."""
    proxies = from_environment({"HTTPS_PROXY": proxy, "NO_PROXY": exceptions})
    assert proxies.for_url("https://a.example/x") in (None, proxy.strip())


UNUSABLE = [
    "socks5://proxy:1080", "proxy:3128", "user:hush@proxy:3128", "http://", "http://proxy:0", "http://proxy:70000",
    "http://user:hush@proxy:x", "ftp://proxy", "http://a b:1", "://",
]  # fmt: skip


@pytest.mark.parametrize("proxy", UNUSABLE)
@pytest.mark.parametrize("setting", ["HTTPS_PROXY", "ALL_PROXY", "http_proxy", "proxy"])
def test_a_proxy_that_cannot_be_used_is_refused_at_once(
    proxy: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of `Client(...)` names the setting, the requirement and a hint, and shows no password."""
    if setting == "proxy":
        with pytest.raises(InvalidRequestError) as caught:
            Client(KEY, proxy=proxy)
    else:
        monkeypatch.setenv(setting, proxy)
        with pytest.raises(InvalidRequestError) as caught:
            Client(KEY)
    problem = caught.value.problems[0]
    assert problem.field == setting
    assert problem.requirement.startswith("must ")
    assert "hush" not in str(caught.value)


async def test_a_proxy_and_a_session_are_refused_together() -> None:
    """A passed-in session uses proxies by its own settings, so one of the two would be ignored silently."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(InvalidRequestError, match="proxy"):
            Client(KEY, session=session, proxy=P)


class NoDelays(random.Random):
    """Random numbers by which retries follow at once."""

    def uniform(self, a: float, b: float) -> float:
        return 0.0


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's requests go through the proxy. If the proxy refuses, nothing was sent."""
    requests: list[bytes] = []
    refusal = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    async with listening(respond_in_turn(requests, refusal)) as (url, *_):
        monkeypatch.setenv("https_proxy", url)
        async with Client(KEY, base_url="https://service.invalid", timeouts=SHORT_TIMEOUTS, rng=NoDelays()) as client:
            with pytest.raises(ConnectError) as caught:
                await client.balance()
    assert requests[0].startswith(b"CONNECT service.invalid:443 ")
    assert caught.value.charged is False


BROKEN = {
    "closes": b"",
    "SOCKS5": b"\x05\xff",
    "garbage": bytes(9),
    "a long header": b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate " + b"x" * 9000 + b"\r\n\r\n",
    "502": b"HTTP/1.1 502 Bad\r\nContent-Length: 0\r\n\r\n",
    "endless": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    "no TLS": b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 400 Bad Request\r\n\r\n",
    "nothing": b"HTTP/1.1 200 OK\r\n",
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_a_proxy_that_breaks_means_that_nothing_was_sent(answer: bytes) -> None:
    """Whatever goes wrong before the tunnel is open, no byte of the request was sent."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if answer == BROKEN["nothing"]:
            await reader.read()

    async with (
        listening(proxy) as (url, *_),
        opened_transport(Timeouts(connect=0.5), proxies=from_argument(url)) as transport,
    ):
        with pytest.raises(ConnectError):
            await transport.post("https://service.invalid/", b"{}", timeout=5, own_connection=True)


async def test_requests_to_this_machine_go_through_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http is for loopback only. A proxy in the environment does not see the key of such a request."""
    by_proxy: list[bytes] = []
    directly: list[bytes] = []
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BALANCE)}\r\n\r\n".encode()
    async with (
        listening(respond_in_turn(by_proxy, head + BALANCE)) as (proxy, *_),
        listening(respond_in_turn(directly, head + BALANCE)) as (url, *_),
    ):
        monkeypatch.setenv("http_proxy", proxy)
        async with Client(KEY, base_url=url, timeouts=SHORT_TIMEOUTS) as client:
            await client.balance()
    assert (len(by_proxy), len(directly)) == (0, 1)


async def test_a_link_never_bypasses_a_proxy_that_cannot_be_used() -> None:
    """The link is not readable, and the error says why."""
    async with opened_transport(proxies=from_environment({"HTTP_PROXY": "socks5://proxy:1080"})) as transport:
        with pytest.raises(ConnectError, match="SOCKS"):
            await transport.head("http://cdn.invalid/v.mp4", length=4, timeout=1)
