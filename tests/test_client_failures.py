"""Failures of the service, and bugs of this package, as a client's users see them, on virtual time."""

from __future__ import annotations

import asyncio

import pytest
from helpers.transports import PassOn, intercepted
from helpers.world import MakeWorld, a_request

from modelslab_async import Budget, JobError, JobState, ServerError
from modelslab_async.emulator import InProcess
from modelslab_async.media import inputs
from modelslab_async.protocol.reply import HttpReply

pytestmark = pytest.mark.looptime
S = JobState


class BrokenTransport(InProcess):
    """Raise what no network raises, at each request with `part` in its path."""

    part = ""

    def record_request(self, path: str) -> float:
        if self.part in path:
            raise ArithmeticError("a bug")
        return super().record_request(path)


@pytest.mark.parametrize(
    ("part", "state", "charged"),
    [("img2video_ultra", S.UNCERTAIN, None), ("fetch", S.TIMED_OUT, True), (".mp4", S.READY, True)],
)
async def test_a_bug_in_this_package_ends_the_job(
    make_world: MakeWorld, part: str, state: JobState, charged: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A waiter never hangs: the job ends, says whether it may be charged, and its error asks for a report."""
    world = make_world()
    broken = BrokenTransport(world.service)
    broken.part = part
    async with world.client(transport=broken) as client:
        job = client.submit(a_request())
        with pytest.raises(JobError, match="please report it: ArithmeticError") as caught:
            await job
    assert (job.state, caught.value.charged) == (state, charged)
    assert "a bug in modelslab_async" in caplog.text


async def test_a_bug_before_the_request_costs_nothing(make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that was not sent is not charged, whatever went wrong."""

    def without_memory(_: object) -> bytes:
        raise MemoryError

    world, budget = make_world(), Budget(usd=5)
    monkeypatch.setattr(inputs, "load", without_memory)
    async with world.client(budget=budget) as client:
        job = client.submit(a_request())
        with pytest.raises(JobError, match="please report it: MemoryError") as caught:
            await job
    assert (job.state, caught.value.charged, world.transport.requests) == (S.REFUSED, False, [])
    assert budget.held == 0


async def test_a_long_retry_after_refuses_the_job_at_once(make_world: MakeWorld) -> None:
    """A job that held its slot for an hour would hold up all others. The refused job is not charged."""
    world = make_world()

    async def down(*_: object) -> HttpReply:
        return HttpReply(503, b'{"status": "error", "message": "maintenance"}', "3600")

    async with world.client(transport=intercepted(world, down)) as client:
        job = client.submit(a_request())
        assert await job.wait(120.0)
    error = job.exception()
    assert isinstance(error, ServerError)
    assert (job.state, error.charged, error.retry_after) == (S.REFUSED, False, 3600.0)


@pytest.mark.parametrize(("code", "calls"), [(503, "submit"), (503, "balance"), (429, "balance")])
async def test_retry_after_is_kept(make_world: MakeWorld, code: int, calls: str) -> None:
    """A Retry-After that is longer than the client's own wait is kept."""
    world, urls = make_world(), list[str]()

    async def busy_once(url: str, pass_on: PassOn) -> HttpReply:
        urls.append(url)
        return await pass_on() if len(urls) > 1 else HttpReply(code, b'{"status": "error", "message": "busy"}', "25")

    async with world.client(transport=intercepted(world, busy_once)) as client:
        started_at = asyncio.get_running_loop().time()
        await (client.submit(a_request()).submitted() if calls == "submit" else client.balance())
        assert 25.0 <= asyncio.get_running_loop().time() - started_at <= 26.0


async def test_an_undocumented_status_is_logged_once(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """However many polls of two jobs return the status, it is logged once, and the jobs go on."""
    world = make_world()

    async def undocumented(_: str, pass_on: PassOn) -> HttpReply:
        reply = await pass_on()
        return reply._replace(body=reply.body.replace(b'"processing"', b'"polishing"'))

    async with world.client(transport=intercepted(world, undocumented)) as client:
        await asyncio.gather(*[client.generate(a_request()) for _ in range(2)])
    messages = [record.getMessage() for record in caplog.records if "polishing" in record.getMessage()]
    assert len(messages) == 1
