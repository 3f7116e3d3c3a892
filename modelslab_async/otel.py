"""Telemetry for OpenTelemetry: a span for each job, with its polls as events, and metrics. Needs the extra `otel`.

Names follow the semantic conventions for generative AI where they have one
(https://opentelemetry.io/docs/specs/semconv/gen-ai/).
"""

from collections.abc import Mapping

from opentelemetry import metrics, trace

from modelslab_async import __version__
from modelslab_async.errors import ModelsLabError
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobState, Video
from modelslab_async.protocol.operations import OPERATIONS
from modelslab_async.telemetry import Telemetry

_OPERATION = "generate_content"


class OpenTelemetry(Telemetry):
    """`Client(telemetry=OpenTelemetry())`, with the application's providers or with those that are passed.

    Spans: "generate_content MODEL", of kind client, from submit to end, with the events "slot" (with the seconds that
    the job had waited for it), "accepted", "poll", "refused" and "retry". A job that was taken over from a client that
    is gone has another span here, with the attribute modelslab_async.recovered. Both spans have the job's ref, as
    modelslab_async.ref. The service's operation is modelslab_async.operation, on spans and metrics.
    Metrics: gen_ai.client.operation.duration (s), modelslab_async.job.polls, modelslab_async.submit.refusals,
    modelslab_async.submit.retries, modelslab_async.download.size (By) and modelslab_async.download.duration (s).
    They hold no prompt, no picture and no key.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        library = "modelslab_async", __version__
        self._tracer = trace.get_tracer(*library, tracer_provider=tracer_provider)
        meter = metrics.get_meter(*library, meter_provider=meter_provider)
        self._spans: dict[str, trace.Span] = {}
        self._duration = meter.create_histogram("gen_ai.client.operation.duration", "s", "Time from submit to end.")
        self._polls = meter.create_histogram("modelslab_async.job.polls", "{poll}", "Polls of a job.")
        self._refusals = meter.create_counter("modelslab_async.submit.refusals", "{refusal}", "Submits not accepted.")
        self._retries = meter.create_counter("modelslab_async.submit.retries", "{retry}", "Submits sent again.")
        self._size = meter.create_histogram("modelslab_async.download.size", "By", "Size of a saved video.")
        self._download = meter.create_histogram("modelslab_async.download.duration", "s", "Time of a download.")

    def submitted(self, job: Job) -> None:
        """Start the span."""
        self._start(job)

    def recovered(self, job: Job) -> None:
        """Start another span for the job. It ends at once if the job is done."""
        span = self._start(job)
        span.set_attribute("modelslab_async.recovered", value=True)
        if job.id:
            span.set_attribute("gen_ai.response.id", job.id)
        if job.done():
            self._end_span(job)

    def started(self, job: Job, waited: float) -> None:
        """Add the end of the wait for a slot to the span."""
        self._add_event(job, "slot", {"modelslab_async.queue.wait": waited})

    def _start(self, job: Job) -> trace.Span:
        attributes = {**_attributes(job), "gen_ai.output.type": "video", "modelslab_async.ref": job.ref}
        name = f"{_OPERATION} {attributes['gen_ai.request.model']}"
        if job.request and job.request.seed is not None:
            attributes["gen_ai.request.seed"] = job.redact(str(job.request.seed))
        span = self._tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)
        self._spans[job.ref] = span
        return span

    def accepted(self, job: Job) -> None:
        """Add the service's id to the span."""
        if span := self._spans.get(job.ref):
            span.set_attribute("gen_ai.response.id", job.id or "")
            span.add_event("accepted")

    def polled(self, job: Job, found: str) -> None:
        """Add the poll to the span."""
        self._add_event(job, "poll", {"modelslab_async.found": found})

    def ended(self, job: Job) -> None:
        """End the span, and record its duration and polls."""
        kind = self._end_span(job)
        attributes = {**_attributes(job), **({"error.type": kind} if kind else {})}
        self._duration.record(job.elapsed, attributes)
        if job.state is not JobState.REFUSED:
            self._polls.record(job.polls, attributes)

    def _end_span(self, job: Job) -> str | None:
        """End the job's span. Return the kind of error that ended the job; None if there is none."""
        kind = "cancelled" if job.cancelled() else type(job.error).__name__ if job.error else None
        if span := self._spans.pop(job.ref, None):
            span.set_attribute("modelslab_async.state", job.state.value)
            if kind:
                span.set_attribute("error.type", kind)
                span.set_status(trace.StatusCode.ERROR, kind)
            span.end()
        return kind

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:  # noqa: ARG002 - a Telemetry's
        """Record the size and the time of a download."""
        self._size.record(saved.size_bytes)
        self._download.record(seconds)

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """Count a refusal."""
        self._count(self._refusals, job, "refused", "RateLimitError" if error is None else type(error).__name__)

    def retried(self, job: Job, error: ModelsLabError) -> None:
        """Count a submit that is sent again."""
        self._count(self._retries, job, "retry", type(error).__name__)

    def _count(self, counter: metrics.Counter, job: Job, event: str, kind: str) -> None:
        counter.add(1, {"error.type": kind})
        self._add_event(job, event, {"error.type": kind})

    def _add_event(self, job: Job, event: str, attributes: Mapping[str, str | float]) -> None:
        if span := self._spans.get(job.ref):
            span.add_event(event, attributes)


def _attributes(job: Job) -> dict[str, str]:
    """Return the attributes that the span and the metrics of a job share."""
    model = job.redact(job.request.model_id) if job.request else ""
    row = OPERATIONS.get(job.operation)
    usual = row.models[0] if row and row.models else "unknown"
    return {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": "modelslab",
        "gen_ai.request.model": model or usual,
        "modelslab_async.operation": job.operation,
    }
