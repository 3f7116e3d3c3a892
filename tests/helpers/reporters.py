"""Error reporters as users configure them, which here write to memory.

Each function returns what its reporter shows of an exception.
"""

from __future__ import annotations

import asyncio
import io
import logging
import pickle
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import loguru
import pytest
import sentry_sdk
import structlog
from rich.console import Console
from rich.scope import render_scope
from rich.traceback import Traceback
from sentry_sdk.envelope import Envelope
from sentry_sdk.integrations.logging import BreadcrumbHandler, EventHandler
from sentry_sdk.transport import Transport

Reporter = Callable[[BaseException], str]


class MemoryTransport(Transport):
    """Keep what would be sent to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.envelopes: list[Envelope] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)


def _sentry(report: Callable[[], object]) -> str:
    """Return what Sentry sends for *report*, with its defaults, which include local variables.

    The integrations that patch other packages are off, so that this process stays as it is.
    """
    memory = MemoryTransport()
    client = sentry_sdk.Client(
        "https://public@sentry.invalid/1",
        transport=memory,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    with sentry_sdk.isolation_scope() as isolated, sentry_sdk.new_scope() as scope:
        isolated.set_client(client)
        scope.set_client(client)
        report()
    assert len(memory.envelopes) == 1
    return "\n".join(envelope.serialize().decode() for envelope in memory.envelopes)


def sentry(error: BaseException) -> str:
    return _sentry(lambda: sentry_sdk.capture_exception(error))


def sentry_logging(error: BaseException) -> str:
    """Log the exception with the handlers of Sentry's LoggingIntegration."""
    logger = logging.Logger("application")  # noqa: LOG001 - a logger of its own, so that no logger of the process keeps the handlers
    logger.addHandler(BreadcrumbHandler())
    logger.addHandler(EventHandler(level=logging.ERROR))
    return _sentry(lambda: logger.error("it failed: %s %r", error, error, exc_info=error))


def _structlog(error: BaseException, transformer: Any) -> str:
    file = io.StringIO()
    processors: list[Any] = [structlog.processors.ExceptionRenderer(transformer), structlog.processors.JSONRenderer()]
    logger = structlog.wrap_logger(structlog.WriteLogger(file), processors=processors)
    logger.error("it failed", exc_info=error)
    return file.getvalue()


def structlog_default(error: BaseException) -> str:
    return _structlog(error, structlog.tracebacks.ExceptionDictTransformer(show_locals=True))


def structlog_whole(error: BaseException) -> str:
    whole = {"locals_max_length": 1000, "locals_max_string": 100_000, "max_frames": 1000, "use_rich": False}
    return _structlog(error, structlog.tracebacks.ExceptionDictTransformer(show_locals=True, **whole))  # type: ignore[arg-type]


def loguru_diagnose(error: BaseException) -> str:
    file = io.StringIO()
    handler = loguru.logger.add(file, backtrace=True, diagnose=True)
    try:
        loguru.logger.opt(exception=error).error("it failed: {!r}", error)
    finally:
        loguru.logger.remove(handler)
    return file.getvalue()


def rich_traceback(error: BaseException) -> str:
    file = io.StringIO()
    Console(file=file, width=1000).print(Traceback.from_exception(*_parts(error), show_locals=True))
    return file.getvalue()


def rich_locals(error: BaseException) -> str:
    """Render as `rich_traceback` does, without source lines, because highlighting them takes most of the time."""
    file = io.StringIO()
    console = Console(file=file, width=1000)
    for stack in Traceback.extract(*_parts(error), show_locals=True).stacks:
        console.print(stack.exc_type, stack.exc_value)
        for frame in stack.frames:
            console.print(render_scope(frame.locals or {}, max_length=10, max_string=80))
    return file.getvalue()


def _parts(error: BaseException) -> tuple[type[BaseException], BaseException, TracebackType | None]:
    return type(error), error, error.__traceback__


def pytest_showlocals(error: BaseException) -> str:
    if error.__traceback__ is None:
        return ""  # pytest shows only errors that were raised
    info = pytest.ExceptionInfo.from_exception(error)
    return str(info.getrepr(showlocals=True, style="long", truncate_locals=False))


def standard_library(error: BaseException) -> str:
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    return "\n".join([*shown.format(), str(error), repr(error), repr(vars(error)), repr(error.args)])


def pickled(error: BaseException) -> str:
    try:
        return pickle.dumps(error).decode(errors="replace")
    except (TypeError, AttributeError, pickle.PicklingError) as unpicklable:
        return str(unpicklable)


def every_value(error: BaseException) -> str:
    """Show each local variable of each frame, as any other reporter might. A value may hide itself in its repr."""
    found = list[str]()
    trace = error.__traceback__
    while trace:
        found += [f"{name} {repr_of(value)}" for name, value in trace.tb_frame.f_locals.items()]
        trace = trace.tb_next
    return "\n".join(found)


def repr_of(value: object) -> str:
    return repr(bytes(value)) if type(value) in (bytearray, memoryview) else repr(value)  # type: ignore[call-overload]


async def asyncio_shows(error: BaseException) -> str:
    """Show what asyncio in debug mode shows of a failed task: its repr, its stack, the exception handler's context."""
    loop, file = asyncio.get_running_loop(), io.StringIO()
    texts = list[str]()
    before, is_debug = loop.get_exception_handler(), loop.get_debug()
    loop.set_debug(True)
    loop.set_exception_handler(lambda _, context: texts.append(repr(context)))
    handler = logging.StreamHandler(file)
    logging.getLogger("asyncio").addHandler(handler)
    try:

        async def fail() -> None:
            raise error

        task = loop.create_task(fail())
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio logs nothing when the task is collected
        texts.append(repr(task))
        task.print_stack(file=file)
        context = {"message": "it failed", "exception": error, "task": task, "future": task}
        loop.call_exception_handler(context)
        loop.default_exception_handler(context)
    finally:
        logging.getLogger("asyncio").removeHandler(handler)
        loop.set_exception_handler(before)
        loop.set_debug(is_debug)
    return "\n".join([*texts, file.getvalue()])


REPORTERS: list[Reporter] = [
    sentry,
    sentry_logging,
    structlog_default,
    structlog_whole,
    loguru_diagnose,
    rich_locals,
    pytest_showlocals,
    standard_library,
    every_value,
    pickled,
]


async def shown(error: BaseException) -> dict[str, str]:
    """Return what each reporter shows of *error* and of all errors linked to it, by the reporter's name."""
    errors = chain(error)
    texts = {reporter.__name__: "\n".join(map(reporter, errors)) for reporter in REPORTERS}
    return {**texts, "asyncio": "\n".join([await asyncio_shows(each) for each in errors])}


def chain(error: BaseException) -> list[BaseException]:
    """Return *error*, its causes and its contexts, including contexts that `raise ... from None` suppresses."""
    found = list[BaseException]()
    remaining: list[BaseException | None] = [error]
    while remaining:
        each = remaining.pop()
        if each is not None and each not in found:
            found.append(each)
            remaining += [each.__cause__, each.__context__]
    return found
