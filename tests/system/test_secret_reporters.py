"""No reporter of exceptions shows the key, whatever call fails, with local variables, causes and contexts."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from helpers.reporters import rich_traceback, shown
from helpers.secret import REQUEST, a_record, client_of, holds_key, secret
from helpers.world import PNG

from modelslab_async import Budget, Client, ModelsLabError, Timeouts
from modelslab_async.emulator import Fault, Rule
from modelslab_async.engine.dedicated import DedicatedServer

Failure = Callable[[Path], Awaitable[object]]


async def generate(*rules: Rule, **options: Any) -> None:
    async with client_of(*rules, **options) as client:
        await client.generate(REQUEST)


async def save(path: Path, *rules: Rule) -> None:
    async with client_of(*rules) as client:
        await client.submit(REQUEST).save(path)


async def call(
    name: str, *arguments: Any, rule: Rule | None = None, keys: list[str] | None = None, **named: Any
) -> None:
    journal = named.pop("journal", None)
    async with client_of(*([rule] if rule else []), keys=keys, journal=journal) as client:
        made = getattr(client, name)(*arguments, **named)
        if inspect.isawaitable(made):
            await made


async def open_client(**options: Any) -> None:
    async with client_of(**options):
        pass


async def open_with_quotes() -> None:
    async with Client(f'"{secret()}"'):
        pass


async def open_with_two_lines() -> None:
    async with Client(f"{secret()}\n{secret()}"):
        pass


async def open_with_part_of_key() -> None:
    async with Client(secret()[:7]):
        pass


async def open_without_key() -> None:
    async with Client():
        pass


async def account_with_own_key() -> None:
    async with client_of() as client:
        await client.account(secret(), max_in_flight=3)


async def account_with_bad_slots() -> None:
    async with client_of() as client:
        await client.account(secret()[::-1], max_in_flight=0)


async def submit_after_close() -> None:
    client = client_of()
    await client.aclose()
    client.submit(REQUEST)


async def call_in_another_loop() -> None:
    client = client_of()
    async with client:
        await asyncio.to_thread(asyncio.run, client.balance())


async def await_detached_job() -> None:
    client = client_of()
    job = client.submit(REQUEST)
    await asyncio.sleep(2)
    await client.aclose(drain=False)
    await job


async def failing_call(name: str, rule: Rule, _: Path) -> None:
    await call(name, rule=rule)


async def submit_beyond_budget() -> None:
    async with client_of(budget=Budget(usd=0)) as client:
        await client.submit(REQUEST)


async def attach(*rules: Rule, **options: Any) -> None:
    async with client_of(*rules, **options) as client:
        await (await client.attach("7"))


async def command_fails(name: str, rule: Rule, _: Path) -> None:
    async with client_of(rule, enterprise=True) as client:
        await getattr(client.dedicated_server, name)()


FAILURES: dict[str, Failure] = {
    "submit refused": lambda _: generate(keys=["another"]),
    "submit fails": lambda _: generate(Rule(Fault.UNAVAILABLE_503)),
    "submit may be taken": lambda _: generate(Rule(Fault.ERROR_500, on="submit")),
    "submit reset": lambda _: generate(Rule(Fault.RESET_BEFORE)),
    "submit not connected": lambda _: generate(Rule(Fault.REFUSED)),
    "submit timed out": lambda _: generate(Rule(Fault.STALL)),
    "submit answered by a page": lambda _: generate(Rule(Fault.HTML_502)),
    "submit answered by half a reply": lambda _: generate(Rule(Fault.TRUNCATED_JSON)),
    "submit beyond the budget": lambda _: submit_beyond_budget(),
    "submit invalid": lambda _: call("submit", prompt="", init_image="none.png", seed="x"),
    "submit of an unknown parameter": lambda _: call("submit", REQUEST, colour=1),
    "submit beyond the documentation": lambda _: call("submit", REQUEST, num_inference_steps=30),
    "submit after the close": lambda _: submit_after_close(),
    "check": lambda _: call("check", prompt="", init_image="none.png"),
    "generate invalid": lambda _: call("generate", prompt="", init_image="none.png"),
    "job failed": lambda _: generate(Rule(Fault.JOB_FAILS)),
    "job timed out": lambda _: generate(timeouts=Timeouts(job=1)),
    "job detached": lambda _: await_detached_job(),
    "job with unreadable links": lambda _: generate(Rule(Fault.HTML_AS_MP4)),
    "attach refused": lambda _: attach(keys=["another"]),
    "attach not connected": lambda _: attach(Rule(Fault.RESET_BEFORE, on="fetch"), timeouts=Timeouts(job=5)),
    "attach without an id": lambda _: call("attach", " "),
    "account invalid": lambda _: account_with_bad_slots(),
    "account of the client's own key": lambda _: account_with_own_key(),
    "account of a short key": lambda _: call("account", "short"),
    "account without a key": lambda _: call("account", ""),
    "find without a journal": lambda _: call("find", "x"),
    "history without a journal": lambda _: call("history"),
    "recover without a journal": lambda _: call("recover"),
    "recover refused": lambda tmp: call("recover", search=True, keys=["another"], journal=tmp / "jobs.db"),
    "recover reset": lambda tmp: call(
        "recover", search=True, rule=Rule(Fault.RESET_BEFORE, on="call"), journal=tmp / "jobs.db"
    ),
    "resubmit": lambda tmp: call("resubmit", [a_record()], journal=tmp / "jobs.db"),
    "resolve without a decision": lambda tmp: call("resolve", "x", journal=tmp / "jobs.db"),
    "resolve unknown id": lambda tmp: call("resolve", "x", id="7", journal=tmp / "jobs.db"),
    "resolve unknown ref": lambda tmp: call("resolve", "x", lost=True, journal=tmp / "jobs.db"),
    "upload of no bytes": lambda _: call("upload", b""),
    "upload of a missing file": lambda _: call("upload", "none.png"),
    "upload refused": lambda _: call("upload", PNG, keys=["another"]),
    "upload reset": lambda _: call("upload", PNG, rule=Rule(Fault.RESET_BEFORE, on="call")),
    "download of a missing file": lambda tmp: call("download", "https://a.invalid/a.mp4", tmp / "a.mp4"),
    "download to a folder": lambda tmp: call("download", "https://a.invalid/a.mp4", tmp),
    "download of at most 0 bytes": lambda tmp: call("download", "https://a.invalid/a", tmp / "a.mp4", max_bytes=0),
    "save to a folder": save,
    "save of a cut file": lambda tmp: save(tmp / "a.mp4", Rule(Fault.CUT_MP4)),
    "Client with a bad number": lambda _: open_client(max_in_flight=0),
    "Client with a bad URL": lambda _: open_client(base_url="http://modelslab.com"),
    "Client with a bad proxy": lambda _: open_client(proxy="socks5://localhost"),
    "Client with a bad budget": lambda _: open_client(budget=5),
    "Client with bad timeouts": lambda _: open_client(timeouts=5, poll_cost="x"),
    "Client with an unknown argument": lambda _: open_client(colour=1),
    "Client with a journal that cannot be opened": lambda tmp: open_client(journal=tmp),
    "Client without a key": lambda _: open_without_key(),
    "Client with a key with quotes": lambda _: open_with_quotes(),
    "Client with a key of two lines": lambda _: open_with_two_lines(),
    "Client with a short key": lambda _: open_with_part_of_key(),
    **{
        f"{name} {rule.fault.name}": partial(failing_call, name, rule)
        for name in ("balance", "queue_depth")
        for rule in (
            Rule(Fault.ERROR_500, on="call"),
            Rule(Fault.RESET_BEFORE, on="call"),
            Rule(Fault.STALL, on="call"),
            Rule(Fault.HTML_502, on="call"),
        )
    },
    **{
        f"dedicated_server.{name} {rule.fault.name}": partial(command_fails, name, rule)
        for name in ("restart", "update", "clear_cache", "clear_queue", "system_details")
        for rule in (Rule(Fault.ERROR_500, on="call"), Rule(Fault.STALL, on="call"))
    },
    "balance refused": lambda _: call("balance", keys=["another"]),
}
"""Each public call, in each way in which it fails."""


@pytest.mark.looptime
@pytest.mark.parametrize("name", FAILURES)
async def test_no_reporter_shows_the_key(name: str, tmp_path: Path) -> None:
    """Whatever fails, no reporter shows the key."""
    with pytest.raises((ModelsLabError, TypeError)) as caught:
        await FAILURES[name](tmp_path)
    texts = await shown(caught.value)
    assert len(texts["sentry"]) > 1000
    assert [reporter for reporter, text in texts.items() if holds_key(text)] == []


async def test_a_traceback_ends_at_the_users_call() -> None:
    """The frames of this package would show its variables. Users need to see the call that failed."""
    async with client_of() as client:
        with pytest.raises(ModelsLabError) as caught:
            await client.attach(" ")
    assert [Path(entry.path).name for entry in caught.traceback] == [Path(__file__).name]
    assert "await client.attach" in rich_traceback(caught.value)


async def test_an_exception_that_the_caller_handles_keeps_its_traceback() -> None:
    """The exception is the context of an error that is raised while the caller handles it."""
    async with client_of() as client:
        for call_it in (lambda: client.check(REQUEST, prompt=""), client.history):
            handled = KeyError("the caller's own")
            try:
                raise handled
            except KeyError:
                with pytest.raises(ModelsLabError) as caught:
                    await await_if_needed(call_it())
            assert caught.value.__context__ is handled
            assert handled.__traceback__ is not None


async def await_if_needed(made: object) -> None:
    if inspect.isawaitable(made):
        await made


def test_every_public_method_is_guarded() -> None:
    """Each public method but the generators has the decorator that hides the key, and keeps its signature and kind."""
    for name, member in (*vars(Client).items(), *vars(DedicatedServer).items()):
        if inspect.isfunction(member) and not name.startswith("_") and not inspect.isasyncgenfunction(member):
            assert hasattr(member, "__wrapped__"), name
            assert inspect.iscoroutinefunction(member) == inspect.iscoroutinefunction(inspect.unwrap(member)), name
    assert [*inspect.signature(Client).parameters][:2] == ["api_key", "base_url"]
