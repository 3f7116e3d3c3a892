"""What is told to an application's telemetry, and what OpenTelemetry makes of it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.world import KEY, World, a_request
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
MakeWorld = Callable[..., World]


class Notes(Telemetry):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def submitted(self, job: Job) -> None:
        self.told.append("submitted")

    def accepted(self, job: Job) -> None:
        self.told.append(f"accepted {job.id}")

    def polled(self, job: Job, found: str) -> None:
        self.told.append(f"polled {found}")

    def ended(self, job: Job) -> None:
        self.told.append(f"ended {job.state.value}")

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
        self.told.append(f"downloaded {saved.size_bytes > 0} {seconds >= 0}")

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        self.told.append(f"refused {error and type(error).__name__}")

    def retried(self, job: Job, error: ModelsLabError) -> None:
        self.told.append(f"retried {type(error).__name__}")


async def test_a_download_is_not_longer_for_the_wait_before_it(world: MakeWorld, tmp_path: Path) -> None:
    """What is told is how long the file took, not how long it waited for its turn."""
    told: list[float] = []

    class Durations(Telemetry):
        def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
            told.append(seconds)

    async with world().client(telemetry=Durations()) as client:
        job = client.submit(a_request())
        await job
        engine_of(client).saver.slots = asyncio.Semaphore(0)
        saving = asyncio.create_task(job.save(tmp_path / "a.mp4"))
        await asyncio.sleep(60)
        engine_of(client).saver.slots.release()
        await saving
    (seconds,) = told
    assert seconds < 60


async def test_all_that_happens_is_told_in_its_order(world: MakeWorld, tmp_path: Path) -> None:
    """A submit that is sent again, one that has no place, looks, the end and the file."""
    faults = [Rule(Fault.UNAVAILABLE_503, times=1), Rule(Fault.RATE_LIMIT, times=1)]
    notes = Notes()
    async with world(faults=faults).client(telemetry=notes) as client:
        job = client.submit(a_request())
        await job.save(tmp_path / "a.mp4")
    polls = [told for told in notes.told if told.startswith("polled")]
    assert [told for told in notes.told if told not in polls] == [
        "submitted", "retried ServerError", "refused None", f"accepted {job.id}", "ended ready", "downloaded True True",
    ]  # fmt: skip
    assert polls[-1] == "polled Readable"
    assert Counter(polls)["polled Ready"] == 1


async def test_telemetry_that_fails_harms_nobody(world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged, and the job goes on."""

    class Broken(Telemetry):
        def polled(self, job: Job, found: str) -> None:
            raise LookupError("the collector is down")

    with caplog.at_level(logging.ERROR, "modelslab_async"):
        async with world().client(telemetry=Broken()) as client:
            await client.generate(a_request())
    assert "telemetry failed" in caplog.text


async def test_open_telemetry(world: MakeWorld, tmp_path: Path) -> None:
    """A span for each job with its looks, and the figures, read back from the SDK; no key and no prompt in them."""
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    telemetry = OpenTelemetry(tracer_provider=tracers, meter_provider=MeterProvider([reader]))
    faults = [Rule(Fault.JOB_FAILS, times=1), Rule(Fault.RATE_LIMIT, times=1), Rule(Fault.UNAVAILABLE_503, times=1)]
    async with world(faults=faults).client(telemetry=telemetry) as client:
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
    figures = _figures(reader)
    assert figures["gen_ai.client.operation.duration"] == 2
    assert figures["modelslab_async.submit.refusals"] == figures["modelslab_async.submit.retries"] == 1
    assert figures["modelslab_async.job.polls"] == 2
    assert figures["modelslab_async.download.size"] == 1
    shown = "".join(span.to_json() for span in (first, second)) + str(reader.get_metrics_data())
    assert not any(word in shown for word in (KEY, "a secret prompt"))


def _figures(reader: InMemoryMetricReader) -> dict[str, int]:
    """How often each figure was taken, or what a counter says."""
    data = reader.get_metrics_data()
    assert data is not None
    metrics = [metric for each in data.resource_metrics for scope in each.scope_metrics for metric in scope.metrics]

    def count(point: Any) -> int:
        return int(point.count if hasattr(point, "count") else point.value)

    return {metric.name: sum(map(count, metric.data.data_points)) for metric in metrics}
