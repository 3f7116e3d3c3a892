"""`EventStream`: the messages of a job, on virtual time."""

from __future__ import annotations

import asyncio
import re
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from helpers.server_sent_events import events_in, events_of
from helpers.world import KEY, MakeWorld, World, a_request
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import Job
from modelslab_async.emulator import Fault, InProcess, Rule, Service
from modelslab_async.web import EventStream

pytestmark = pytest.mark.looptime


async def test_a_stream_shows_the_whole_life_of_a_job(make_world: MakeWorld) -> None:
    """A message comes for each state and each second. Each has an id, the bar never goes back, and the end is last."""
    async with make_world().client() as client:
        before = time.time() * 1000
        job = client.submit(a_request())
        stream = EventStream(job)
        assert (stream.status, stream.headers["Content-Type"]) == (200, "text/event-stream")
        assert (stream.headers["Cache-Control"], stream.headers["X-Accel-Buffering"]) == ("no-store", "no")
        body = b"".join([part async for part in stream])
    every = events_in(body)
    assert body.startswith(b"retry: 1000\n\n")
    states = list(dict.fromkeys(event["state"] for event in every))
    assert states == ["submitting", "processing", "ready"]
    assert [event["event"] for event in every] == ["progress"] * (len(every) - 1) + ["end"]
    running = [event for event in every if event["state"] == "processing"]
    assert len(running) >= 20
    assert all(after["elapsed"] - before["elapsed"] <= 1.01 for before, after in pairwise(running))
    assert [event["progress"] for event in every] == sorted(event["progress"] for event in every)
    assert all(event["progress"] < 1 for event in every[:-1])
    assert {key: every[-1][key] for key in ("state", "progress", "eta", "error")} == {
        "state": "ready",
        "progress": 1.0,
        "eta": 0,
        "error": None,
    }
    for event in every:
        milliseconds, shown, *mark = event["id"].split("-")
        assert before - 1 <= int(milliseconds) <= time.time() * 1000 + 1
        assert float(shown) == event["progress"]
        assert mark == (["end"] if event["event"] == "end" else [])


async def test_connecting_sends_the_present_and_no_history(make_world: MakeWorld) -> None:
    """A reader that comes late gets the present state at once, and nothing of what was before."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        await asyncio.sleep(20)
        at = asyncio.get_running_loop().time()
        parts = aiter(EventStream(job))
        assert await anext(parts) == b"retry: 1000\n\n"
        (first,) = events_in(await anext(parts))
        assert asyncio.get_running_loop().time() == at
        assert (first["state"], first["elapsed"]) == ("processing", pytest.approx(job.elapsed, abs=0.01))
        (second,) = events_in(await anext(parts))
        assert second["elapsed"] > first["elapsed"]
        await parts.aclose()
        await job
        whole = await events_of(EventStream(job))
    assert [event["event"] for event in whole] == ["end"]


async def test_a_browser_that_resumes_sees_no_less_progress(make_world: MakeWorld) -> None:
    """The progress never falls below the one in Last-Event-ID, and is never 1 before the end."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        shown = [event["progress"] for event in await events_of(EventStream(job, last_event_id="1764277487123-0.6000"))]
        assert shown[0] == 0.6
        assert shown == sorted(shown)
        again = client.submit(a_request())
        await again.submitted()
        shown = [e["progress"] for e in await events_of(EventStream(again, last_event_id="1764277487123-1.9999"))]
        assert shown == [0.9999] * (len(shown) - 1) + [1.0]


async def test_a_resumed_stream_of_a_failed_job_keeps_its_bar(make_world: MakeWorld) -> None:
    """A job that fails ends its bar where the browser has it."""
    async with make_world(faults=[Rule(Fault.JOB_FAILS, times=1)]).client() as client:
        job = client.submit(a_request())
        await job.wait()
        (end,) = await events_of(EventStream(job, last_event_id="1764277487123-0.9000"))
    assert (end["event"], end["progress"]) == ("end", 0.9)


async def test_a_browser_that_has_seen_the_end_is_sent_away(make_world: MakeWorld) -> None:
    """The id of an end is answered with 204 and no body, which stops an EventSource."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        end = (await events_of(EventStream(job)))[-1]
        over = EventStream(job, last_event_id=end["id"])
        assert (over.status, [part async for part in over]) == (204, [])
        assert "Content-Type" not in over.headers


@given(st.text() | st.from_regex(r"[0-9]{0,20}-[0-9.]{0,9}(-end)?"))
def test_any_header_is_accepted(header: str) -> None:
    """A header that is no id changes nothing. Whatever it is, the progress that it asks for is from 0 to 1."""

    async def streamed() -> list[dict[str, Any]]:
        job = await _withdrawn_job()
        return await events_of(EventStream(job, last_event_id=header))

    found = asyncio.run(streamed())
    if re.fullmatch(r"[0-9]{1,15}-[01]\.[0-9]{4}-end", header, re.ASCII):
        assert found == []
    else:
        (end,) = found
        assert (end["state"], end["event"]) == ("cancelled", "end")
        is_id = re.fullmatch(r"[0-9]{1,15}-([01]\.[0-9]{4})", header, re.ASCII)
        assert end["progress"] == (min(float(is_id[1]), 1.0) if is_id else 0.0)


async def _withdrawn_job() -> Job:
    async with World(service := Service(), InProcess(service)).client(max_in_flight=1) as client:
        client.submit(a_request())
        job = client.submit(a_request())
        assert job.cancel()
        await client.aclose(drain=False)
        return job


async def test_a_stream_without_events_stays_open(make_world: MakeWorld) -> None:
    """While a job waits for its slot, only comments are sent, so that proxies do not close the connection."""
    async with make_world().client(max_in_flight=1) as client:
        first, waiting = client.submit(a_request()), client.submit(a_request())
        await first.submitted()
        begun, times = asyncio.get_running_loop().time(), list[float]()
        parts = list[bytes]()
        async for part in EventStream(waiting, heartbeat=3):
            parts.append(part)
            times.append(asyncio.get_running_loop().time() - begun)
    silent = parts[2 : next(index for index, part in enumerate(parts) if b"submitting" in part)]
    assert silent == [b": still here\n\n"] * len(silent)
    assert len(silent) >= 5
    assert all(after - before <= 3.6 for before, after in pairwise(times))


async def test_a_stream_of_a_detached_job_has_no_end_event(make_world: MakeWorld, tmp_path: Path) -> None:
    """If the client closes, the stream just stops, and the browser connects again."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        reading = asyncio.create_task(events_of(EventStream(job)))
        await asyncio.sleep(3)
        await client.aclose(drain=False)
        found = await reading
    assert len(found) >= 3
    assert {event["event"] for event in found} == {"progress"}


async def test_a_failed_job_ends_with_words_for_the_public(make_world: MakeWorld) -> None:
    """The end says what a visitor may read, and nothing of the service's or the client's text."""
    async with make_world(faults=[Rule(Fault.JOB_FAILS, times=1)]).client() as client:
        job = client.submit(a_request())
        end = (await events_of(EventStream(job)))[-1]
        assert (end["state"], end["event"], end["error"]["code"]) == ("failed", "end", "failed")
        assert {*end["error"]} == {"code", "message"}
        assert not any(text in str(end) for text in (job.ref, str(job.id), "charged", KEY))


async def test_a_withdrawn_job_ends_as_cancelled(make_world: MakeWorld) -> None:
    """A job that the caller withdrew ends its stream."""
    async with make_world().client(max_in_flight=1) as client:
        client.submit(a_request())
        job = client.submit(a_request())
        assert job.cancel()
        (end,) = await events_of(EventStream(job))
        assert (end["state"], end["error"]["code"]) == ("cancelled", "cancelled")


async def test_a_reader_that_leaves_leaves_no_task_behind(make_world: MakeWorld) -> None:
    """Closing a stream early ends it at once, and the job goes on."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        await job.submitted()
        before = len(asyncio.all_tasks())
        parts = aiter(EventStream(job))
        await anext(parts)
        await anext(parts)
        await parts.aclose()
        assert len(asyncio.all_tasks()) == before
        await job


async def test_nothing_piles_up_for_a_slow_reader(make_world: MakeWorld) -> None:
    """A reader that takes a part each 10 s gets the state of that time, not what it missed."""
    async with make_world().client() as client:
        job = client.submit(a_request())
        async for part in EventStream(job):
            for event in events_in(part):
                assert event["elapsed"] == pytest.approx(job.elapsed, abs=0.01)
            await asyncio.sleep(10 if job.state == "processing" else 0)
