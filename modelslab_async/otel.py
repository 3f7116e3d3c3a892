"""Telemetry for OpenTelemetry: a span for each job, with its looks as events, and the usual figures. Extra `otel`.

Names are those of the semantic conventions for generative AI where they have one.
"""

from collections.abc import Mapping
from importlib.metadata import version

from opentelemetry import metrics, trace

from modelslab_async.errors import ModelsLabError
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobState, Video
from modelslab_async.telemetry import Telemetry

_DEFAULT_MODEL = "wan2.2"
_OPERATION = "generate_content"


class OpenTelemetry(Telemetry):
    """`Client(telemetry=OpenTelemetry())`, with the application's providers, or with those that are passed.

    Spans: "generate_content MODEL", of kind client, from submit to end; events "accepted", "look", "refused", "retry".
    Metrics: gen_ai.client.operation.duration (s), modelslab_async.job.looks, modelslab_async.submit.refusals,
    modelslab_async.submit.retries, modelslab_async.download.size (By) and modelslab_async.download.duration (s).
    No prompt, picture or key is in them.
    """

    def __init__(
        self,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        own = "modelslab_async", version("modelslab_async")
        self._tracer = trace.get_tracer(*own, tracer_provider=tracer_provider)
        meter = metrics.get_meter(*own, meter_provider=meter_provider)
        self._spans: dict[str, trace.Span] = {}
        self._duration = meter.create_histogram("gen_ai.client.operation.duration", "s", "From submit to end.")
        self.polls = meter.create_histogram("modelslab_async.job.looks", "{look}", "Looks at a job.")
        self._refusals = meter.create_counter("modelslab_async.submit.refusals", "{refusal}", "Submits not taken.")
        self._retries = meter.create_counter("modelslab_async.submit.retries", "{retry}", "Submits sent again.")
        self._size = meter.create_histogram("modelslab_async.download.size", "By", "Of a saved video.")
        self._download = meter.create_histogram("modelslab_async.download.duration", "s", "Of a download.")

    def submitted(self, job: Job) -> None:
        """Begin the span."""
        known = _known(job)
        name = f"{_OPERATION} {known['gen_ai.request.model']}"
        attributes = {**known, "gen_ai.output.type": "video", "modelslab_async.ref": job.ref}
        if job.request and job.request.seed is not None:
            attributes["gen_ai.request.seed"] = job.redact(str(job.request.seed))
        self._spans[job.ref] = self._tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)

    def accepted(self, job: Job) -> None:
        """Note the service's id."""
        if span := self._spans.get(job.ref):
            span.set_attribute("gen_ai.response.id", job.id or "")
            span.add_event("accepted")

    def polled(self, job: Job, found: str) -> None:
        """Note a look."""
        self._note(job, "look", {"modelslab_async.found": found})

    def ended(self, job: Job) -> None:
        """End the span, and count."""
        error = job.error
        kind = "cancelled" if job.cancelled() else None if error is None else type(error).__name__
        known = {**_known(job), **({"error.type": kind} if kind else {})}
        if span := self._spans.pop(job.ref, None):
            span.set_attribute("modelslab_async.state", job.state.value)
            if kind:
                span.set_attribute("error.type", kind)
                span.set_status(trace.StatusCode.ERROR, kind)
            span.end()
        self._duration.record(job.elapsed, known)
        if job.state is not JobState.REFUSED:
            self.polls.record(job.polls, known)

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:  # noqa: ARG002 - a Telemetry's
        """Count a file."""
        self._size.record(saved.size_bytes)
        self._download.record(seconds)

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """Count a refusal."""
        self._count(self._refusals, job, "refused", "RateLimitError" if error is None else type(error).__name__)

    def retried(self, job: Job, error: ModelsLabError) -> None:
        """Count a repetition."""
        self._count(self._retries, job, "retry", type(error).__name__)

    def _count(self, counter: metrics.Counter, job: Job, event: str, kind: str) -> None:
        counter.add(1, {"error.type": kind})
        self._note(job, event, {"error.type": kind})

    def _note(self, job: Job, event: str, attributes: Mapping[str, str]) -> None:
        if span := self._spans.get(job.ref):
            span.add_event(event, attributes)


def _known(job: Job) -> dict[str, str]:
    model = job.redact(job.request.model_id) if job.request else None
    return {
        "gen_ai.operation.name": _OPERATION,
        "gen_ai.provider.name": "modelslab",
        "gen_ai.request.model": model or _DEFAULT_MODEL,
    }
