"""Run the emulator in a separate thread, and answer with an error while synchronous code blocks its event loop."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager, suppress

BLOCKED_SECONDS = 5.0
"""A loop that does not react for this long counts as blocked. Then the guard answers the requests that wait for it."""
_CHECK_SECONDS = 0.5
_DRAIN_SECONDS = 1.0
_BLOCKED = (
    "the emulator cannot answer: synchronous code blocks the event loop that it serves in, "
    "for example a synchronous HTTP client (hint: `with Emulator.running() as emulator:` serves in another thread)"
)
_log = logging.getLogger("modelslab_async.emulator")


@contextmanager
def entered_in_thread(manager: AbstractAsyncContextManager[object]) -> Iterator[None]:
    """Enter *manager* in an event loop of a new thread, and leave it there at the end. Raise what entering raises."""
    entered: Future[Callable[[], object]] = Future()

    async def stay() -> None:
        left = asyncio.Event()
        loop = asyncio.get_running_loop()
        async with manager:
            entered.set_result(lambda: loop.call_soon_threadsafe(left.set))
            await left.wait()

    def run() -> None:
        try:
            asyncio.run(stay())
        except BaseException as error:
            if entered.done():
                raise
            entered.set_exception(error)

    thread = threading.Thread(target=run, name="modelslab_async emulator", daemon=True)
    thread.start()
    leave = entered.result()
    try:
        yield
    finally:
        leave()
        thread.join()


class LoopGuard:
    """A thread that notices if the running event loop is blocked.

    A synchronous client in the loop's own thread would wait for ever, because the server cannot answer meanwhile. The
    guard accepts its connection instead, and answers HTTP 503 with the reason. The request has no other effect.

    listening: returns the sockets at which the loop listens.
    notice: value of the header `X-Emulator`.
    """

    def __init__(self, listening: Callable[[], Sequence[socket.socket]], notice: str) -> None:
        self._listening, self._notice = listening, notice
        self._loop = asyncio.get_running_loop()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="modelslab_async emulator guard", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()

    def _watch(self) -> None:
        while not self._closing.wait(_CHECK_SECONDS):
            reacted = threading.Event()
            try:
                self._loop.call_soon_threadsafe(reacted.set)
            except RuntimeError:  # the loop is closed
                return
            if not reacted.wait(BLOCKED_SECONDS):
                while not reacted.wait(_CHECK_SECONDS) and not self._closing.is_set():
                    self._answer_waiting()

    def _answer_waiting(self) -> None:
        """Answer each connection that the loop has not accepted yet."""
        for listening in self._listening():
            with suppress(OSError):  # none waits, or the loop has closed the socket
                while True:
                    connection, _ = listening.accept()
                    _log.error(_BLOCKED)
                    with connection, suppress(OSError):
                        self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        body = json.dumps({"status": "error", "message": _BLOCKED}).encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: close\r\n"
            f"X-Emulator: {self._notice}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        connection.settimeout(_DRAIN_SECONDS)
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(2**16):  # closing with an unread request would reset the connection, and lose the answer
            pass
