"""The proxy that damages bytes: what it does, what it never does, and a client behind it."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import _chaos
from benchmarks._damage import CHANGES, CONTROLS, LONGEST_PIECE, Damage, Damages, Direction, Kind, Lane, Proxy, Talk

REQUEST, REPLY = Direction.REQUEST, Direction.REPLY
DATA = b"0123456789"
FINAL = (Kind.CUT, Kind.RESET, Kind.HALF_CLOSE, Kind.STALL)
NON_FINAL = tuple(kind for kind in Kind if kind not in FINAL)
seeds = st.integers(min_value=0, max_value=10**9)
cuts = st.lists(st.integers(min_value=0, max_value=5000), max_size=20)


def _submit(number: int) -> tuple[bytes, bytes]:
    body = json.dumps({"key": "any", "prompt": "x" * 40 * number, "track_id": f"job-{number}"}).encode()
    fields = f"Host: 127.0.0.1:54321\r\nAccept: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return b"POST /api/v6/video/img2video_ultra HTTP/1.1\r\n" + fields.encode(), body


def _answer(number: int) -> tuple[bytes, bytes]:
    body = json.dumps(
        {"status": "processing", "id": 1_234_567 + number, "meta": {"track_id": f"job-{number}"}}
    ).encode()
    fields = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nServer: {'x' * 40}\r\n\r\n"
    return b"HTTP/1.1 200 OK\r\n" + fields.encode(), body


SUBMITS = [_submit(number) for number in range(6)]
ANSWERS = [_answer(number) for number in range(6)]


def _pieces(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    at = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


def _passed(lane: Lane, pieces: Sequence[bytes]) -> tuple[bytes, list[Damage], float]:
    """Return what comes out of a lane, the damage done, and the seconds slept."""
    out, damages, slept = b"", list[Damage](), 0.0
    for piece in pieces:
        for step in lane.take(piece):
            match step:
                case bytes():
                    out += step
                case float():
                    slept += step
                case Damage():
                    damages.append(step)
        if damages and damages[-1].kind in FINAL:
            break
    return out, damages, slept


def _messages(stream: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the first line and the body of each whole message that a lenient reader finds."""
    while (head := re.match(rb"(?s)(.*?)\r\n(.*?)\r\n\r\n", stream)) and (
        length := re.search(rb"(?i)content-length: *(\d{1,9})", head[2])
    ):
        end = head.end() + int(length[1])
        if end > len(stream):
            return
        yield head[1], stream[head.end() : end]
        stream = stream[end:]


def _is_json(body: bytes) -> bool:
    try:
        json.loads(body)
    except ValueError:
        return False
    return True


# --- decisions ---


@given(seeds, st.integers(min_value=0, max_value=1000), st.sampled_from(Direction))
def test_the_seed_decides_the_damage(seed: int, connection: int, direction: Direction) -> None:
    """Equal seeds give equal damage, in order of position and within the bounds. At rate 0 there is none."""
    plans = [list(islice(Damages(seed=seed, rate=0.5).plan(connection, direction), 50)) for _ in range(2)]
    assert plans[0] == plans[1]
    assert all(before.at < after.at for before, after in pairwise(plans[0]))
    assert all(each.at >= 0 and each.size <= LONGEST_PIECE and each.seconds <= 1 for each in plans[0])
    assert next(Damages(seed=seed, rate=0.0).plan(connection, direction), None) is None


def test_each_connection_and_direction_has_its_own_damage() -> None:
    """All kinds occur, in heads and far behind them, and no two directions of 100 connections have equal damage."""
    plans = [[*islice(Damages().plan(number, each), 5)] for number in range(100) for each in Direction]
    assert all(before != after for index, before in enumerate(plans) for after in plans[:index])
    assert {damage.kind for plan in plans for damage in plan} == set(Kind)
    first = [plan[0].at for plan in plans]
    assert min(first) < 10
    assert max(first) > 10_000


@given(seeds, cuts, st.sampled_from(Direction))
def test_the_damage_does_not_depend_on_the_pieces(seed: int, cuts: list[int], direction: Direction) -> None:
    """However the bytes are cut into pieces, the same bytes leave, with the same damage and pauses."""
    data = b"".join(head + body for head, body in (SUBMITS if direction is REQUEST else ANSWERS))

    def lane() -> Lane:
        talk = Talk()
        talk.asked(SUBMITS[0][0])
        return Lane(Damages(seed=seed, rate=0.7, farthest=1000).plan(0, direction), direction, talk)

    assert _passed(lane(), [data]) == _passed(lane(), _pieces(data, cuts))


@settings(max_examples=500)
@given(seeds, st.sampled_from([NON_FINAL, CHANGES, tuple(Kind)]))
def test_no_request_is_forged(seed: int, kinds: tuple[Kind, ...]) -> None:
    """A request that arrives whole is unchanged and arrives once, or its body is no JSON."""
    lane = Lane(Damages(seed=seed, rate=0.5, kinds=kinds).plan(0, REQUEST), REQUEST, Talk())
    out, _, _ = _passed(lane, [head + body for head, body in SUBMITS])
    bodies = [body for _, body in _messages(out) if _is_json(body)]
    assert bodies == [body for _, body in SUBMITS if body in bodies]


@settings(max_examples=500)
@given(seeds, st.sampled_from([NON_FINAL, CHANGES, tuple(Kind)]))
@example(823024, NON_FINAL)  # a repeated piece of "HTTP/1.1 200" made the status 201
def test_no_reply_is_forged(seed: int, kinds: tuple[Kind, ...]) -> None:
    """A reply that arrives with JSON has the HTTP status and the body that were sent, and arrives once."""
    talk = Talk()
    lane = Lane(Damages(seed=seed, rate=0.5, kinds=kinds).plan(0, REPLY), REPLY, talk)
    out = b""
    for (asked, _), (head, body) in zip(SUBMITS, ANSWERS, strict=True):
        talk.asked(asked)
        passed, damages, _ = _passed(lane, [head + body])
        out += passed
        if damages and damages[-1].kind in FINAL:
            break
    found = [(line, body) for line, body in _messages(out) if _is_json(body)]
    assert [body for _, body in found] == [body for _, body in ANSWERS if body in [each for _, each in found]]
    codes = [code[1] for line, _ in found if (code := re.match(rb"HTTP/1\.\d +(\d{3})(?: |$)", line))]
    assert set(codes) <= {b"200"}


def test_any_byte_may_be_garbageto_the_fields_of_a_reply() -> None:
    """Between the first line and the body of a reply garbage may be any byte; elsewhere it is control characters."""
    noise, head = bytes(range(65, 73)), ANSWERS[0][0]
    for at in range(len(head)):
        talk = Talk()
        talk.asked(SUBMITS[0][0])
        lane = Lane(iter([Damage(kind=Kind.GARBAGE, at=at, noise=noise)]), REPLY, talk)
        out, _, _ = _passed(lane, [head])
        garbage = out[at : at + len(noise)]
        assert out == head[:at] + garbage + head[at:]
        assert (garbage == noise) == (at > head.index(b"\n"))
        assert garbage == noise or set(garbage) <= set(CONTROLS)


# --- over sockets ---


class _Echo:
    """A server that sends back what it receives, and a full stop at the end."""

    def __init__(self) -> None:
        self.received = b""
        self.ended = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1000):
                self.received += data
                writer.write(data)
                await writer.drain()
            writer.write(b".")
            await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()
            self.ended.set()


async def _through(
    plan: Callable[[int, Direction], Iterator[Damage]], pieces: Sequence[bytes], echo: _Echo, *, is_over: bool = True
) -> tuple[bytes, str]:
    """Send *pieces* through a proxy. Return what the client receives, and the name of the error at the end.

    With *is_over*, the client closes its direction after the last piece.
    """
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    async with asyncio.timeout(10), server, Proxy(server.sockets[0].getsockname()[1], plan) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        received, error = b"", ""
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if is_over:
                writer.write_eof()
            while data := await reader.read(1000):
                received += data
                if not is_over and len(received) == 5:
                    break
        except OSError as reset:
            error = type(reset).__name__
        writer.close()
        await echo.ended.wait()
    return received, error


def _once(direction: Direction, damage: Damage) -> Callable[[int, Direction], Iterator[Damage]]:
    return lambda _, each: iter([damage] if each is direction else [])


@settings(max_examples=25)
@given(st.binary(max_size=5000), cuts)
def test_without_damage_all_bytes_pass_unchanged(data: bytes, cuts: list[int]) -> None:
    """Bytes pass in any pieces and in both directions, and so does the end of each direction."""
    undamaged = Damages(rate=0.0).plan
    assert asyncio.run(_through(undamaged, _pieces(data, cuts), _Echo())) == (data + b".", "")


@pytest.mark.parametrize(
    ("direction", "damage", "served", "received"),
    [
        (REQUEST, Damage(kind=Kind.DELAY, at=5, seconds=0.05), DATA, DATA + b"."),
        (REPLY, Damage(kind=Kind.DELAY, at=5, seconds=0.05), DATA, DATA + b"."),
        (REQUEST, Damage(kind=Kind.DRIP, at=5, size=3, seconds=0.001), DATA, DATA + b"."),
        (REPLY, Damage(kind=Kind.DRIP, at=5, size=64, seconds=0.001), DATA, DATA + b"."),
        (REQUEST, Damage(kind=Kind.REPEAT, at=5, size=3), b"0123423456789", b"0123423456789."),
        (REPLY, Damage(kind=Kind.REPEAT, at=5, size=64), DATA, b"012340123456789."),
        (REQUEST, Damage(kind=Kind.GARBAGE, at=5, noise=b"\0"), b"01234\x0056789", b"01234\x0056789."),
        (REPLY, Damage(kind=Kind.GARBAGE, at=5, size=2, noise=b"\0\1"), DATA, b"01234\0\x01789."),
        (REQUEST, Damage(kind=Kind.HALF_CLOSE, at=5), DATA[:5], b"01234."),
        (REPLY, Damage(kind=Kind.HALF_CLOSE, at=5), DATA, DATA[:5]),
    ],
)
async def test_each_kind_does_what_it_says(
    direction: Direction, damage: Damage, served: bytes, received: bytes
) -> None:
    """The server and the client receive exactly the bytes that the kind of damage leaves."""
    echo = _Echo()
    assert await _through(_once(direction, damage), [DATA], echo) == (received, "")
    assert echo.received == served


def test_a_delay_and_a_drip_pause() -> None:
    """A delay is a pause before its byte. A drip passes single bytes, each after a pause."""
    delay, drip = Damage(kind=Kind.DELAY, at=2, seconds=0.5), Damage(kind=Kind.DRIP, at=4, size=2, seconds=0.25)
    lane = Lane(iter([delay, drip]), REQUEST, Talk())
    assert [*lane.take(DATA)] == [b"01", delay, 0.5, b"23", drip, b"4", 0.25, b"5", 0.25, b"6789"]


@pytest.mark.parametrize("direction", Direction)
async def test_a_cut_closes_both_sides(direction: Direction) -> None:
    """No byte from the cut on passes, and both sides see an end."""
    echo = _Echo()
    received, error = await _through(_once(direction, Damage(kind=Kind.CUT, at=5)), [DATA], echo)
    assert DATA[:5].startswith(received)
    assert echo.received == (DATA[:5] if direction is REQUEST else DATA)
    assert error in (
        "",
        "ConnectionResetError",
    )  # the operating system resets a connection that is closed with unread bytes


@pytest.mark.parametrize("direction", Direction)
async def test_a_reset_is_an_error(direction: Direction) -> None:
    """The client gets ConnectionResetError, and no byte from the reset on."""
    received, error = await _through(_once(direction, Damage(kind=Kind.RESET, at=5)), [DATA], _Echo())
    assert DATA[:5].startswith(received)
    assert error == "ConnectionResetError"


@pytest.mark.parametrize("direction", Direction)
async def test_a_stall_lasts_until_the_client_gives_up(direction: Direction) -> None:
    """Nothing more passes. Once the client disconnects, the connection to the server is closed too."""
    echo = _Echo()
    received, error = await _through(_once(direction, Damage(kind=Kind.STALL, at=5)), [DATA], echo, is_over=False)
    assert (received, error) == (DATA[:5], "")
    assert echo.received == (DATA[:5] if direction is REQUEST else DATA)


async def test_a_server_that_does_not_listen_causes_a_reset() -> None:
    """A client of the proxy gets an error, not silence."""
    server = await asyncio.start_server(_Echo().serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    async with asyncio.timeout(10), Proxy(port, Damages(rate=0.0).plan) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()


async def test_the_log_names_the_request() -> None:
    """Each entry has the kind, the direction, the position, the request line and the ref."""
    echo = _Echo()
    server = await asyncio.start_server(echo.serve, "127.0.0.1", 0)
    plan = _once(REPLY, Damage(kind=Kind.REPEAT, at=3, size=2))
    async with asyncio.timeout(10), server, Proxy(server.sockets[0].getsockname()[1], plan) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"".join(SUBMITS[1]))
        writer.write_eof()
        await reader.read()
        writer.close()
        (entry,) = proxy.log
    expected = {"connection": 0, "direction": "REPLY", "kind": "REPEAT", "at": 3, "ref": "job-1"}
    assert expected.items() <= entry.as_dict().items()
    assert entry.as_dict()["request"] == "POST /api/v6/video/img2video_ultra"
    assert entry.damage.kind in CHANGES


# --- a client behind it ---


@pytest.mark.skipif(sys.platform != "linux", reason="counts open files in /proc")
def test_the_account_is_right_behind_the_proxy() -> None:
    """Each job ends within its bounds and is charged at most once, and each charge is known.

    Only documented errors are raised, no task or file is left open, and each saved file is the job's own.
    """
    jobs, damages = 24, Damages(seed=1, rate=0.4)
    account = asyncio.run(_chaos.run(jobs, lambda _: None, rate=0.05, damages=damages, limit=40))
    notes = "\n".join(account.notes)
    assert sum(account.ends.values()) == jobs, notes
    assert (account.late, account.foreign, account.wrong_files, account.disagreements) == (0, 0, 0, 0), notes
    assert (account.charged_twice, account.lost) == (0, 0), notes
    assert account.charges == account.accepted, notes
    assert (account.leaked_tasks, account.leaked_files) == (0, 0), notes
    assert account.saved > 0 < sum(account.damage.values())
