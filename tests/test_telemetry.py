"""The notifications of an application's telemetry, and the spans and metrics that `OpenTelemetry` makes of them."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.left_behind import jobs_left_running
from helpers.world import KEY, MakeWorld, a_request
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from modelslab_async import Job, JobFailedError, SavedVideo, Video
from modelslab_async.emulator import Fault, Rule
from modelslab_async.errors import ModelsLabError
from modelslab_async.otel import OpenTelemetry
from modelslab_async.telemetry import Telemetry

pytestmark = pytest.mark.looptime


class RecordingTelemetry(Telemetry):
    """Record the notifications in their order."""

    def __init__(self) -> None:
        self.notifications: list[str] = []

    def submitted(self, job: Job) -> None:
        self.notifications.append("submitted")

    def started(self, job: Job, waited: float) -> None:
        self.notifications.append("started")

    def recovered(self, job: Job) -> None:
        self.notifications.append(f"recovered {job.state.value}")

    def accepted(self, job: Job) -> None:
        self.notifications.append(f"accepted {job.id}")

    def polled(self, job: Job, found: str) -> None:
        self.notifications.append(f"polled {found}")

    def ended(self, job: Job) -> None:
        self.notifications.append(f"ended {job.state.value}")

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
        self.notifications.append(f"downloaded {saved.size_bytes > 0} {seconds >= 0}")

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        self.notifications.append(f"refused {error and type(error).__name__}")

    def retried(self, job: Job, error: ModelsLabError) -> None:
        self.notifications.append(f"retried {type(error).__name__}")


async def test_telemetry_is_notified_in_order(make_world: MakeWorld, tmp_path: Path) -> None:
    """The order is: a repeated submit, a missing slot, the acceptance, the polls, the end and the download."""
    faults = [Rule(Fault.UNAVAILABLE_503, times=1), Rule(Fault.RATE_LIMIT, times=1)]
    telemetry = RecordingTelemetry()
    async with make_world(faults=faults).client(telemetry=telemetry) as client:
        job = client.submit(a_request())
        await job.save(tmp_path / "a.mp4")
    polls = [each for each in telemetry.notifications if each.startswith("polled")]
    assert [each for each in telemetry.notifications if each not in polls] == [
        "submitted", "started", "retried ServerError", "refused None", "started",
        f"accepted {job.id}", "ended ready", "downloaded True True",
    ]  # fmt: skip
    assert polls[-1] == "polled Readable"
    assert Counter(polls)["polled Ready"] == 1


async def test_the_duration_of_a_download_excludes_the_wait_for_its_turn(make_world: MakeWorld, tmp_path: Path) -> None:
    """`downloaded` gets the seconds of the download itself."""
    durations: list[float] = []

    class Durations(Telemetry):
        def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
            durations.append(seconds)

    async with make_world().client(telemetry=Durations()) as client:
        job = client.submit(a_request())
        await job
        engine_of(client).saver.slots = asyncio.Semaphore(0)
        saving = asyncio.create_task(job.save(tmp_path / "a.mp4"))
        await asyncio.sleep(60)
        engine_of(client).saver.slots.release()
        await saving
    (seconds,) = durations
    assert seconds < 60


async def test_failing_telemetry_does_no_harm(make_world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """An error that telemetry raises is logged, and the job goes on."""

    class Broken(Telemetry):
        def polled(self, job: Job, found: str) -> None:
            raise LookupError("the collector is down")

    with caplog.at_level(logging.ERROR, "modelslab_async"):
        async with make_world().client(telemetry=Broken()) as client:
            await client.generate(a_request())
    assert "telemetry failed" in caplog.text


async def test_open_telemetry_records_spans_and_metrics(make_world: MakeWorld, tmp_path: Path) -> None:
    """The SDK gets the metrics, and a span for each job with its polls, without the key and the prompt."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider([reader]))
    faults = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.RATE_LIMIT, times=1), Rule(Fault.UNAVAILABLE_503, times=1)]
    async with make_world(faults=faults).client(telemetry=telemetry) as client:
        failing = client.submit(a_request(prompt="a secret prompt"))
        with pytest.raises(JobFailedError):
            await failing
        job = client.submit(a_request(prompt="a secret prompt", model_id="wan2.1", seed=7))
        await job.save(tmp_path / "a.mp4")
    first, second = spans.get_finished_spans()
    assert (first.name, second.name) == ("generate_content wan2.2", "generate_content wan2.1")
    assert (first.status.status_code, second.status.status_code) == (StatusCode.ERROR, StatusCode.UNSET)
    assert first.attributes is not None
    assert first.attributes["error.type"] == "JobFailedError"
    names = Counter(event.name for event in second.events)
    assert names["accepted"] == 1
    assert names["poll"] == job.polls
    assert (names["refused"], names["retry"]) == (1, 1)
    values = _values(reader)
    assert values["gen_ai.client.operation.duration"] == 2
    assert values["modelslab_async.submit.refusals"] == values["modelslab_async.submit.retries"] == 1
    assert values["modelslab_async.job.polls"] == 2
    assert values["modelslab_async.download.size"] == 1
    shown = "".join(span.to_json() for span in (first, second)) + str(reader.get_metrics_data())
    assert not any(hidden in shown for hidden in (KEY, "a secret prompt"))


async def test_a_recovered_job_has_a_span_with_its_ref(make_world: MakeWorld, tmp_path: Path) -> None:
    """A job that was taken over has another span, which names the same ref, and ends with the job."""
    spans, tracers, world = InMemorySpanExporter(), TracerProvider(), make_world()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    ready, running = (await jobs_left_running(world, tmp_path / "jobs.db", 2))[:2]
    async with world.client(journal=tmp_path / "jobs.db") as client:
        await (await client.attach(ready.ref))
    async with world.client(journal=tmp_path / "jobs.db", telemetry=OpenTelemetry(tracer_provider=tracers)) as client:
        await client.recover()
    finished = [dict(span.attributes or {}) for span in spans.get_finished_spans()]
    assert [span["modelslab_async.ref"] for span in finished] == [ready.ref, running.ref]
    assert [span["modelslab_async.recovered"] for span in finished] == [True, True]
    assert [span["modelslab_async.state"] for span in finished] == ["ready", "ready"]


async def test_the_wait_for_a_slot_is_an_event_of_the_span(make_world: MakeWorld) -> None:
    """The second of two jobs with one slot waits until the first has ended."""
    spans, tracers = InMemorySpanExporter(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    async with make_world().client(max_in_flight=1, telemetry=OpenTelemetry(tracer_provider=tracers)) as client:
        first, second = client.submit(a_request()), client.submit(a_request())
        await first
        waited_at_least = first.elapsed - 5
        await second
    events = [event for span in spans.get_finished_spans() for event in span.events if event.name == "slot"]
    waits = [(event.attributes or {})["modelslab_async.queue.wait"] for event in events]
    assert waits[0] == pytest.approx(0, abs=0.5)
    assert isinstance(waits[1], float)
    assert waited_at_least < waits[1] < first.elapsed + 0.5


def _values(reader: InMemoryMetricReader) -> dict[str, int]:
    """Return how often each histogram was recorded, and the value of each counter, by name."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]

    def count(point: Any) -> int:
        return int(point.count if hasattr(point, "count") else point.value)

    return {metric.name: sum(map(count, metric.data.data_points)) for metric in metrics}
