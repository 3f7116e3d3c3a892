"""A job whose events the test chooses: it ends once, its progress never falls, and it behaves as a future."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest
from helpers.inside import events_of
from helpers.job_runtime import FakeRuntime
from helpers.world import a_request
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import Job, JobError, JobRecord, JobState, ModelsLabError, Video
from modelslab_async.job.run import Ages, JobRun
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Event, ImpossibleMoveError

ERROR = JobError("why")
VIDEO = Video(id="1", ref="ref", url="https://a.invalid/v.mp4", links=())
EVENTS: list[Event] = [
    lifecycle.Started(),
    lifecycle.PutBack(),
    lifecycle.Postponed(),
    lifecycle.Cancelled(),
    wire.Accepted(id="1", eta=30.0),
    wire.Ready(id="1"),
    lifecycle.Verified(VIDEO),
    lifecycle.Unreadable(ERROR),
    lifecycle.Rejected(ERROR),
    lifecycle.Failed(ERROR),
    lifecycle.ReplyLost(ERROR),
    lifecycle.Abandoned(ERROR),
    lifecycle.NotFound(ERROR),
]
SUCCESS: list[Event] = [
    lifecycle.Started(),
    wire.Accepted(id="1", eta=30.0),
    wire.Ready(id="1"),
    lifecycle.Verified(VIDEO),
]


@given(st.lists(st.sampled_from(EVENTS), max_size=12))
def test_no_order_of_events_ends_a_job_twice(events: list[Event]) -> None:
    """Whatever the order and the number of events, a job gets at most one result, and keeps it."""

    async def run_all() -> None:
        runtime = FakeRuntime()
        run, result = JobRun(runtime, None, "ref"), None
        for event in events:
            with contextlib.suppress(ImpossibleMoveError):
                run.advance(event)
            if run.job.done():
                result = result or (run.state, run.future)
                assert (run.state, run.future) == result
        assert runtime.ends == int(run.job.done())

    asyncio.run(run_all())


@pytest.mark.looptime
async def test_progress_never_falls_and_is_1_only_when_the_video_is_there() -> None:
    """Progress is 0 before the acceptance, grows between polls, never falls with the estimate, and ends at 1."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    values = [run.job.progress]
    for event in SUCCESS[:2]:
        run.advance(event)
        values.append(run.job.progress)
    assert values == [0.0, 0.0, 0.0]
    for _ in range(30):
        await asyncio.sleep(7.0)
        values.append(run.job.progress)
        run.polled(running=True)
        values.append(run.job.progress)
    assert values == sorted(values)
    assert len({*values}) > 4
    assert values[-1] < 1.0
    run.advance(SUCCESS[2])
    assert values[-1] <= run.job.progress < 1.0
    run.advance(SUCCESS[3])
    assert run.job.progress == 1.0
    assert [event.progress for event in await events_of(run.job)][-1] == 1.0


@pytest.mark.looptime
async def test_events_come_between_polls() -> None:
    """With `every`, an event comes at least that often, with the present time, eta and progress."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    for event in SUCCESS[:2]:
        run.advance(event)
    asyncio.get_running_loop().call_later(20.5, advance, run, SUCCESS[2:])
    events = [event async for event in run.job.events(every=1.0)]
    running = [event for event in events if event.state is JobState.PROCESSING]
    assert len(running) >= 20
    assert all(0.0 <= after.elapsed - before.elapsed <= 1.01 for before, after in pairwise(events))
    assert [event.progress for event in events] == sorted(event.progress for event in events)
    assert (events[-1].state, events[-1].progress) == (JobState.READY, 1.0)


def advance(run: JobRun, events: list[Event]) -> None:
    for event in events:
        run.advance(event)


async def _in_task_group(job: Job) -> Video:
    async def awaited() -> Video:
        return await job

    async with asyncio.TaskGroup() as group:
        task = group.create_task(awaited())
    return task.result()


async def _with_wait(job: Job, return_when: str) -> Video:
    future: Any = job  # asyncio's annotation asks for a Future; it uses only what a job has too
    done, pending = await asyncio.wait([future], return_when=return_when)
    assert (done, pending) == ({job}, set())
    return job.result()


async def _with_as_completed(job: Job) -> Video:
    for each in asyncio.as_completed([job]):
        return await each
    raise AssertionError


WAYS: dict[str, Callable[[Job], Awaitable[Video]]] = {
    "await": lambda job: asyncio.wait_for(job, 5),
    "gather": lambda job: asyncio.wait_for(asyncio.gather(job), 5),  # type: ignore[arg-type]
    "shield": asyncio.shield,
    "ensure_future": asyncio.ensure_future,
    "TaskGroup": _in_task_group,
    "as_completed": _with_as_completed,
    "wait for the first": lambda job: _with_wait(job, asyncio.FIRST_COMPLETED),
    "wait for the first error": lambda job: _with_wait(job, asyncio.FIRST_EXCEPTION),
    "wait for all": lambda job: _with_wait(job, asyncio.ALL_COMPLETED),
}


@pytest.mark.parametrize("way", WAYS)
async def test_asyncio_takes_a_job_as_an_awaitable_and_as_a_future(way: str) -> None:
    """Each function of asyncio that takes awaitables or futures returns the job's video."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    asyncio.get_running_loop().call_soon(advance, run, SUCCESS)
    result: Any = await WAYS[way](run.job)
    assert result in (VIDEO, [VIDEO])


async def test_removed_callbacks_are_not_called() -> None:
    """`remove_done_callback` returns how many callbacks it removed. Only the others are called."""
    run, called = JobRun(FakeRuntime(), a_request(), "ref"), list[Job]()
    run.job.add_done_callback(called.append)
    run.job.add_done_callback(called.append)
    assert run.job.remove_done_callback(called.append) == 2
    assert run.job.remove_done_callback(called.append) == 0
    run.job.add_done_callback(called.append)
    for event in SUCCESS:
        run.advance(event)
    await asyncio.sleep(0)
    assert called == [run.job]


async def test_a_job_that_was_left_unsent_cannot_be_cancelled() -> None:
    """Its client closed and the journal keeps it, so it has ended here, although it is still WAITING."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    run.detach(is_kept=True, is_sent=False)
    assert (run.state, run.job.done(), run.job.cancel()) == (JobState.WAITING, True, False)


@pytest.mark.looptime
async def test_a_detached_job_keeps_the_time_of_its_end() -> None:
    """The last event is the detachment, so that `elapsed` stays what it was then."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    await asyncio.sleep(300)
    run.detach(is_kept=True, is_sent=False)
    await asyncio.sleep(300)
    assert run.job.elapsed == pytest.approx(300)
    assert [event.elapsed for event in await events_of(run.job)] == [0.0, pytest.approx(300)]


@pytest.mark.looptime
async def test_a_restored_job_is_estimated_by_its_age() -> None:
    """A job that was accepted 30 s ago, of which the service expects 40 s, needs 10 s more. Its age is kept."""
    record = JobRecord(account="a", ref="ref", owner="o", created_at=1.0, job_id="1", eta=40.0)
    record = record._replace(state=JobState.PROCESSING)
    run = JobRun.restored(FakeRuntime(), record, None, Ages(since_creation=33.0, since_acceptance=30.0))
    assert run.job.eta == pytest.approx(10.0)
    assert run.job.elapsed == pytest.approx(33.0)


async def test_closing_before_the_submit_is_no_refusal_of_the_service() -> None:
    """The job is WAITING again, for the next client."""
    run = JobRun(FakeRuntime(), a_request(), "ref")
    run.advance(lifecycle.Started())
    run.detach(is_kept=True, is_sent=False)
    assert run.state is JobState.WAITING
    assert run.error is not None


async def test_an_unknown_id_is_not_called_charged_when_its_client_closes() -> None:
    """Whether a mistyped id belongs to a paid job is not known before its first poll."""
    run = JobRun(FakeRuntime(), None, "ref", job_id="typo", is_unknown=True)
    run.detach(is_kept=False, is_sent=False)
    assert isinstance(run.error, ModelsLabError)
    assert run.error.charged is None
