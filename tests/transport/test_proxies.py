"""Which proxy a request goes through, by the environment and by the argument."""

from __future__ import annotations

import asyncio

import pytest
from helpers.inside import engine_of
from helpers.world import KEY
from hypothesis import given
from hypothesis import strategies as st
from test_transport import BALANCE, QUICK, listening, served

from modelslab_async import Client, ConnectError, InvalidRequestError, Timeouts
from modelslab_async.transport.aiohttp import AiohttpTransport
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
    """The variables mean what they mean to curl and httpx."""
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
    """A host with its subdomains, an address, a network, each perhaps with a port; or everything."""
    proxies = from_environment({"HTTPS_PROXY": P, "NO_PROXY": exceptions})
    assert (proxies.for_url(url) is None) == is_direct


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.3.2.1", "[::1]"])
def test_loopback_never_goes_through_a_proxy(host: str) -> None:
    """An emulator on this machine is reached directly, and the key of its requests is seen by no proxy."""
    for proxies in (from_environment({"ALL_PROXY": P}), from_argument(P)):
        assert proxies.for_url(f"http://{host}:8000/x") is None
        assert not list(from_environment({"ALL_PROXY": "socks5://x"}).problems(f"http://{host}:8000"))


@given(st.text(), st.text())
def test_no_setting_of_the_environment_raises(exceptions: str, proxy: str) -> None:
    """Whatever stands in the variables, a request has a proxy, or has none."""
    proxies = from_environment({"HTTPS_PROXY": proxy, "NO_PROXY": exceptions})
    assert proxies.for_url("https://a.example/x") in (None, proxy.strip())


UNUSABLE = [
    "socks5://proxy:1080", "proxy:3128", "user:hush@proxy:3128", "http://", "http://proxy:0", "http://proxy:70000",
    "http://user:hush@proxy:x", "ftp://proxy", "http://a b:1", "://",
]  # fmt: skip


@pytest.mark.parametrize("proxy", UNUSABLE)
@pytest.mark.parametrize("setting", ["HTTPS_PROXY", "ALL_PROXY", "http_proxy", "proxy"])
def test_a_proxy_that_cannot_be_used_is_an_error_at_once(
    proxy: str, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Client(...)` names the setting, what a proxy must be, and a hint; no password is shown."""
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


def test_a_proxy_beside_a_session_is_an_error() -> None:
    """A session that is passed in has proxies by its own settings; one of two answers would be ignored silently."""

    async def make() -> None:
        import aiohttp  # noqa: PLC0415 - made in a loop only

        async with aiohttp.ClientSession() as session:
            with pytest.raises(InvalidRequestError, match="proxy"):
                Client(KEY, session=session, proxy=P)

    asyncio.run(make())


async def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where requests must go through a proxy, they do; one that refuses means that nothing was sent."""
    requests: list[bytes] = []
    refusal = b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"
    async with listening(lambda reader, writer: served(reader, writer, requests, refusal)) as (url, *_):
        monkeypatch.setenv("https_proxy", url)
        client = Client(KEY, base_url="https://service.invalid", timeouts=QUICK)
        with pytest.raises(ConnectError) as caught:
            await engine_of(client).shared.transport.post("https://service.invalid/", b"{}", timeout=5)
        await client.aclose()
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
    """Whatever goes wrong before the tunnel stands, no byte of the request has left."""

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        if answer == BROKEN["nothing"]:
            await reader.read()

    async with listening(proxy) as (url, *_):
        transport = AiohttpTransport(Timeouts(connect=0.5), proxies=from_argument(url))
        with pytest.raises(ConnectError):
            await transport.post("https://service.invalid/", b"{}", timeout=5, own_connection=True)
        await transport.aclose()


async def test_a_proxy_is_no_way_to_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain http goes to loopback only, and the key with it: a proxy of the environment does not see it."""
    by_proxy: list[bytes] = []
    asked: list[bytes] = []
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(BALANCE)}\r\n\r\n".encode()
    async with (
        listening(lambda reader, writer: served(reader, writer, by_proxy, head + BALANCE)) as (proxy, *_),
        listening(lambda reader, writer: served(reader, writer, asked, head + BALANCE)) as (url, *_),
    ):
        monkeypatch.setenv("http_proxy", proxy)
        async with Client(KEY, base_url=url, timeouts=QUICK) as client:
            await client.balance()
    assert (len(by_proxy), len(asked)) == (0, 1)


async def test_a_link_whose_proxy_cannot_be_used_does_not_go_past_it() -> None:
    """A request never bypasses the proxy that is named for it: the link does not read, and the error says why."""
    transport = AiohttpTransport(QUICK, proxies=from_environment({"HTTP_PROXY": "socks5://proxy:1080"}))
    with pytest.raises(ConnectError, match="SOCKS"):
        await transport.head("http://cdn.invalid/v.mp4", length=4, timeout=1)
    await transport.aclose()
