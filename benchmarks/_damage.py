"""A TCP proxy that damages the bytes that pass through it, and logs the damage.

The damage of a connection depends on the seed, the connection's number and the direction. It depends on positions in
the stream alone, so the sizes of the arriving pieces make no difference.

The proxy never forges a message. The pieces that it repeats are shorter than any whole request or reply. The bytes that
it invents are control characters, which neither an HTTP head nor JSON may contain. The header fields of a reply are the
exception: they may receive any byte, because no field says whether a job was accepted. So a damaged submit is never a
second submit, and a damaged reply never names another job or another outcome. Only the content of a file can change
unnoticed; the log names the files that were hit.
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from enum import Enum
from functools import partial
from itertools import count
from typing import Any, Self

import attrs

CONTROLS = bytes(byte for byte in range(32) if byte not in b"\t\n\r")
"""Bytes that are valid in neither an HTTP head nor JSON."""
LONGEST_PIECE = 64
"""The most bytes that are repeated or dripped. The emulator's shortest head is longer."""
_MAX_NOISE_BYTES = 8
_MAX_DELAY = 1.0
_MAX_PAUSE = 0.01
_READ_BYTES = 2**16
_TRACKED_BYTES = 4096
_REQUEST_LINE = re.compile(rb"((?:GET|POST) \S+) HTTP/1\.[01]\r\n")
_REF = re.compile(rb'"track_id": ?"([^"]*)"')
_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER with a timeout of 0: closing sends RST."""


class Direction(Enum):
    """A direction of a connection."""

    REQUEST = "from the client to the server"
    REPLY = "from the server to the client"


class Kind(Enum):
    """A kind of damage."""

    CUT = "close the connection"
    RESET = "reset the connection"
    HALF_CLOSE = "end this direction and leave the other one open"
    STALL = "pass nothing more until the other side gives up"
    DELAY = "wait before the next byte"
    DRIP = "pass the next bytes one by one, with pauses"
    REPEAT = "pass the last bytes once more"
    GARBAGE = "insert invented bytes, or replace the next bytes by them"


CHANGES = (Kind.REPEAT, Kind.GARBAGE)
"""Kinds that can change a message that still arrives whole."""
_LAST = (Kind.CUT, Kind.RESET, Kind.HALF_CLOSE, Kind.STALL)


@attrs.frozen(kw_only=True)
class Damage:
    """One damage, done just before byte `at` of the stream passes.

    size: bytes to repeat, drip or replace.
    seconds: the delay, or the pause after each dripped byte.
    noise: random bytes from which garbage is made.
    """

    kind: Kind
    at: int
    size: int = 0
    seconds: float = 0.0
    noise: bytes = b""


@attrs.frozen(kw_only=True)
class Damages:
    """The kinds and the frequency of the damage.

    A stream is cut into stretches, whose lengths are drawn log-uniformly from 1 to `farthest` bytes, so that many end
    in a head. A share `rate` of them ends with a damage.
    """

    seed: int = 0
    rate: float = 0.2
    kinds: Collection[Kind] = tuple(Kind)
    farthest: int = 100_000

    def plan(self, connection: int, direction: Direction) -> Iterator[Damage]:
        """Yield the damage of one direction of a connection, in order of position."""
        rng = random.Random(f"{self.seed} {connection} {direction.name}")
        at = -1
        while self.rate > 0:
            at += int(self.farthest ** rng.random())
            if rng.random() < self.rate:
                yield _drawn(rng, rng.choice(list(self.kinds)), at)


def _drawn(rng: random.Random, kind: Kind, at: int) -> Damage:
    match kind:
        case Kind.DELAY:
            return Damage(kind=kind, at=at, seconds=rng.uniform(0.0, _MAX_DELAY))
        case Kind.DRIP:
            return Damage(kind=kind, at=at, size=rng.randint(1, LONGEST_PIECE), seconds=rng.uniform(0.0, _MAX_PAUSE))
        case Kind.REPEAT:
            return Damage(kind=kind, at=at, size=rng.randint(1, LONGEST_PIECE))
        case Kind.GARBAGE:
            noise = rng.randbytes(rng.randint(1, _MAX_NOISE_BYTES))
            return Damage(kind=kind, at=at, size=rng.choice((0, len(noise))), noise=noise)
        case _:
            return Damage(kind=kind, at=at)


@attrs.define
class Exchange:
    """A request and its reply, as far as they passed the proxy."""

    request: str = ""
    """Method and path."""
    ref: str = ""
    """The track_id in its body."""
    reply: bytes = b""
    """The beginning of the reply, up to the end of its head."""

    @property
    def is_in_status_line(self) -> bool:
        """Whether the next byte of the reply belongs to the first line of HTTP, whose status may have begun."""
        return self.reply.startswith(b"HTTP/") and b"\n" not in self.reply

    @property
    def is_in_fields(self) -> bool:
        """Whether the next byte of the reply belongs to a header field."""
        return b"\n" in self.reply and not self._has_head

    @property
    def _has_head(self) -> bool:
        return b"\r\n\r\n" in self.reply

    def answered(self, piece: bytes) -> None:
        """Record the next bytes of the reply."""
        if not self._has_head:
            self.reply += piece


@attrs.define
class Talk:
    """The exchanges of a connection. They follow each other."""

    current: Exchange = attrs.field(factory=Exchange)
    _sent: bytes = b""

    def asked(self, piece: bytes) -> None:
        """Record the next bytes of the requests."""
        self._sent += piece
        for line in _REQUEST_LINE.finditer(self._sent):
            self.current = Exchange(line[1].decode(errors="replace"))
            self._sent = self._sent[line.end() :]
        if named := _REF.search(self._sent):
            self.current.ref = named[1].decode(errors="replace")
        self._sent = self._sent[-_TRACKED_BYTES:]


Step = bytes | float | Damage
"""The next step of a proxy: write bytes, sleep for seconds, or log a damage (and end the direction, if it does so)."""


class Lane:
    """Decide what happens to the bytes of one direction of a connection. Does no I/O."""

    def __init__(self, plan: Iterator[Damage], direction: Direction, talk: Talk) -> None:
        self._plan, self._talk, self._is_reply = plan, talk, direction is Direction.REPLY
        self._next = next(plan, None)
        self._position = self._dropping = self._dripping = 0
        self._pause = 0.0
        self._last = b""
        """The bytes that can be repeated."""

    def take(self, data: bytes) -> Iterator[Step]:
        """Yield the steps for the next bytes. A damage that ends the direction is the last step."""
        if not self._is_reply:
            self._talk.asked(data)
        while data:
            ahead = self._next.at - self._position if self._next else len(data)
            if self._next and ahead == 0:
                damage, self._next = self._next, next(self._plan, None)
                yield damage
                if damage.kind in _LAST:
                    return
                yield from self._done(damage)
                continue
            yield from self._passed(data[:ahead])
            data = data[ahead:]

    def _done(self, damage: Damage) -> Iterator[Step]:
        match damage.kind:
            case Kind.DELAY:
                yield damage.seconds
            case Kind.DRIP:
                self._dripping, self._pause = damage.size, damage.seconds
            case Kind.REPEAT if self._is_reply and self._talk.current.is_in_status_line:
                pass  # it could make another status, which no network invents
            case Kind.REPEAT if self._last:
                yield self._last[-damage.size :]
            case Kind.GARBAGE:
                self._dropping = damage.size
                yield damage.noise if self._is_reply and self._talk.current.is_in_fields else _controls(damage.noise)

    def _passed(self, piece: bytes) -> Iterator[Step]:
        self._position += len(piece)
        self._last = (self._last + piece)[-LONGEST_PIECE:]
        if self._is_reply:
            self._talk.current.answered(piece)
        dropped = min(self._dropping, len(piece))
        self._dropping, piece = self._dropping - dropped, piece[dropped:]
        dripped = min(self._dripping, len(piece))
        self._dripping -= dripped
        for index in range(dripped):
            yield piece[index : index + 1]
            yield self._pause
        if piece[dripped:]:
            yield piece[dripped:]


def _controls(noise: bytes) -> bytes:
    return bytes(CONTROLS[byte % len(CONTROLS)] for byte in noise)


@attrs.frozen
class Entry:
    """A log entry: a damage, and the exchange that it hit."""

    connection: int
    direction: Direction
    damage: Damage
    exchange: Exchange

    def __str__(self) -> str:
        damage, what = self.damage, f"{self.exchange.request} {self.exchange.ref}".strip()
        more = f", {damage.size} bytes" if damage.size else ""
        more += f", {damage.seconds:.3f} s" if damage.seconds else ""
        more += f", noise {damage.noise.hex()}" if damage.noise else ""
        position = f"{self.direction.name.lower()} byte {damage.at} of connection {self.connection}"
        return f"{damage.kind.name.lower()} at {position}{more}: {what or 'before a request line'}"

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as values for JSON."""
        return {
            "connection": self.connection,
            "direction": self.direction.name,
            "kind": self.damage.kind.name,
            "at": self.damage.at,
            "request": self.exchange.request,
            "ref": self.exchange.ref,
            "text": str(self),
        }


DamagePlan = Callable[[int, Direction], Iterator[Damage]]
_Way = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""The source and the sink of a direction's bytes."""


class Proxy:
    """Listen on loopback and forward connections to a server on loopback, damaged as `plan` says.

    `async with Proxy(port, Damages(seed=7).plan) as proxy:` listens at `proxy.url`. `log` holds the damage.
    """

    def __init__(self, port: int, plan: DamagePlan) -> None:
        self._upstream, self._plan = port, plan
        self._numbers = count()
        self._tasks = set[asyncio.Task[None]]()
        self.log: list[Entry] = []

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(next(self._numbers), reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection to its end."""
        writers = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
            writers.append(up_writer)
            if await self._forward(number, (reader, up_writer), (up_reader, writer)):
                for each in writers:
                    each.close()
                for each in writers:
                    await each.wait_closed()
        except OSError:
            pass  # the server does not listen or a side closed: the other side is reset
        finally:
            for each in writers:
                _reset(each)

    async def _forward(self, number: int, request: _Way, reply: _Way) -> bool:
        """Forward both directions until they end. Return True to close the connection, False to reset it."""
        talk, is_orderly = Talk(), True
        try:
            async with asyncio.TaskGroup() as group:
                for direction, (source, sink) in ((Direction.REQUEST, request), (Direction.REPLY, reply)):
                    lane = Lane(self._plan(number, direction), direction, talk)
                    note = partial(self._note, number, direction, talk)
                    group.create_task(_pump(source, sink, lane, note))
        except* (_ResetError, OSError):
            is_orderly = False
        except* _ClosedError:
            pass
        return is_orderly

    def _note(self, number: int, direction: Direction, talk: Talk, damage: Damage) -> None:
        self.log.append(Entry(number, direction, damage, talk.current))


class _ClosedError(Exception):
    """The connection is to be closed."""


class _ResetError(Exception):
    """The connection is to be reset."""


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lane: Lane, note: Callable[[Damage], None]
) -> None:
    """Forward one direction until it ends. Raises _ClosedError or _ResetError if the whole connection must end."""
    while data := await reader.read(_READ_BYTES):
        for step in lane.take(data):
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case float():
                    await asyncio.sleep(step)
                case Damage(kind=kind):
                    note(step)
                    match kind:
                        case Kind.CUT:
                            raise _ClosedError
                        case Kind.RESET:
                            raise _ResetError
                        case Kind.HALF_CLOSE | Kind.STALL:
                            return await _discard(reader, writer, is_ended=kind is Kind.HALF_CLOSE)
    writer.write_eof()
    return None


async def _discard(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_ended: bool) -> None:
    """Drop all further bytes until the source ends."""
    if is_ended:
        writer.write_eof()
    while await reader.read(_READ_BYTES):
        pass
    writer.write_eof()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
