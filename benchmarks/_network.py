"""A network of hosts on this machine: namespaces with addresses of their own where `ip netns` works, else loopback."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import attrs

_SUBNET = "10.213.77"


@attrs.frozen
class Network:
    """Where servers listen, and the command that runs a process on each host.

    note: says which kind of network it is.
    """

    address: str
    prefixes: Sequence[Sequence[str]]
    note: str


@contextmanager
def network_of(count: int) -> Iterator[Network]:
    """Yield a network of *count* hosts. Namespaces are removed after the block."""
    name = f"mlh{os.getpid() % 100_000}"
    try:
        _make(name, count)
    except (OSError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "") or str(error)
        _remove(name, count)
        yield Network("127.0.0.1", [()] * count, f"no network namespaces here, so hosts share loopback: {why.strip()}")
        return
    try:
        prefixes = [["ip", "netns", "exec", f"{name}-{host}"] for host in range(count)]
        yield Network(f"{_SUBNET}.1", prefixes, f"{count} network namespaces with addresses of their own")
    finally:
        _remove(name, count)


def _make(name: str, count: int) -> None:
    _ip(f"link add {name} type bridge")
    _ip(f"addr add {_SUBNET}.1/24 dev {name}")
    _ip(f"link set {name} up")
    for host in range(count):
        space, outer, inner = f"{name}-{host}", f"{name}o{host}", f"{name}i{host}"
        _ip(f"netns add {space}")
        _ip(f"link add {outer} type veth peer name {inner}")
        _ip(f"link set {inner} netns {space}")
        _ip(f"link set {outer} master {name} up")
        _ip(f"-n {space} addr add {_SUBNET}.{host + 10}/24 dev {inner}")
        _ip(f"-n {space} link set {inner} up")
        _ip(f"-n {space} link set lo up")


def _remove(name: str, count: int) -> None:
    for command in (*(f"netns del {name}-{host}" for host in range(count)), f"link del {name}"):
        with suppress(OSError, subprocess.CalledProcessError):
            _ip(command)


def _ip(arguments: str) -> None:
    command = ["ip", *arguments.split()]  # of the PATH
    subprocess.run(command, check=True, capture_output=True, text=True)


class Proxy:
    """A TCP proxy to a Unix socket, whose connections can be cut."""

    def __init__(self, address: str, socket: Path) -> None:
        self.port = 0
        self._address, self._socket = address, socket
        self._writers = set[asyncio.StreamWriter]()
        self._server: asyncio.Server | None = None

    async def listen(self) -> None:
        """Accept connections, on the same port as before."""
        self._server = await asyncio.start_server(self._serve, self._address, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self, seconds: float = 0.0) -> None:
        """Abort all connections, and refuse new ones for *seconds*."""
        if seconds and self._server:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if seconds:
            await asyncio.sleep(seconds)
            await self.listen()

    async def close(self) -> None:
        """Abort all connections, and accept no more."""
        if self._server:
            self._server.close()
        await self.cut()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self._socket)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, back}
        self._writers |= ends
        try:
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        finally:
            self._writers -= ends


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxy_to(address: str, socket: Path) -> AsyncIterator[Proxy]:
    """Run a proxy."""
    proxy = Proxy(address, socket)
    await proxy.listen()
    try:
        yield proxy
    finally:
        await proxy.close()
