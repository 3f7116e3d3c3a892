"""Fetch the picture that a request names by its URL, as the service does, without opening this machine to strangers."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urljoin, urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from modelslab_async.emulator.params import Picture
from modelslab_async.protocol.request import is_http_url, is_loopback

MAX_BYTES = 64 * 2**20
"""The largest picture that is fetched. The service documents no maximum for URLs."""
_TIMEOUT = aiohttp.ClientTimeout(total=10)
_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_ERRORS = (aiohttp.ClientError, TimeoutError, OSError, UnicodeError, ValueError)
"""UnicodeError: a host with an empty label, like "a..b"."""
_UNREACHABLE = "The init image could not be fetched."


class PublicResolver(AbstractResolver):
    """Resolve names to public addresses only. Raise OSError if a name has another address."""

    def __init__(self, inner: AbstractResolver | None = None) -> None:
        self._inner = inner or aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the addresses of *host*."""
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(each["host"]) for each in found):
            raise OSError("not a public address")
        return found

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def is_public(address: str) -> bool:
    """Return whether an IP address is reachable from the whole internet."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_global


class PictureFetcher:
    """Fetch pictures, without the key.

    The URL of a request may lead anywhere. A redirect is followed to the same host, or to a public address: so a page
    of the internet cannot make the emulator read from this network.

    offline: fetch from this machine only. Any other URL, and one that cannot be fetched, gives a placeholder.
    """

    def __init__(self, *, offline: bool = False) -> None:
        self._offline = offline
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        connector = aiohttp.TCPConnector(resolver=PublicResolver())
        self._public = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()
        await self._public.close()

    async def fetch(self, url: str) -> Picture:
        """Return the picture at *url*, or the reason why there is none."""
        if self._offline and not is_loopback(urlsplit(url).hostname):
            return Picture(placeholder(url))
        picture = await self._fetch(url)
        return Picture(placeholder(url)) if picture.problem and self._offline else picture

    async def _fetch(self, url: str) -> Picture:
        host, at = urlsplit(url).hostname, url
        with suppress(*_ERRORS):
            for _ in range(_MAX_REDIRECTS + 1):
                async with self._get(at, is_same_host=urlsplit(at).hostname == host) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        at = urljoin(at, response.headers["Location"])
                        if not is_http_url(at) or self._leaves_machine(at):
                            return Picture(problem=_UNREACHABLE)
                        continue
                    if response.status != 200:
                        return Picture(problem=f"The init image could not be fetched: HTTP {response.status}.")
                    content = bytearray()
                    async for chunk in response.content.iter_any():
                        content += chunk
                        if len(content) > MAX_BYTES:
                            return Picture(problem=f"The init image has more than {MAX_BYTES // 2**20} MiB.")
                    return Picture(bytes(content))
        return Picture(problem=_UNREACHABLE)

    def _leaves_machine(self, url: str) -> bool:
        return self._offline and not is_loopback(urlsplit(url).hostname)

    @asynccontextmanager
    async def _get(self, url: str, *, is_same_host: bool) -> AsyncIterator[aiohttp.ClientResponse]:
        session = self._session if is_same_host else self._public
        if not is_same_host:  # aiohttp asks no resolver for an address
            with suppress(ValueError):
                if not is_public(urlsplit(url).hostname or ""):
                    raise OSError("not a public address")
        async with session.get(url, allow_redirects=False) as response:
            yield response


def placeholder(url: str) -> bytes:
    """Return a PNG of 104×60 pixels whose colours depend on *url*."""
    red, green, blue = hashlib.sha256(url.encode(errors="replace")).digest()[:3]
    rows = b"".join(
        b"\0" + b"".join(bytes(((red + x) % 256, (green + 2 * y) % 256, blue)) for x in range(104)) for y in range(60)
    )
    head = (104).to_bytes(4) + (60).to_bytes(4) + b"\x08\x02\0\0\0"
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
