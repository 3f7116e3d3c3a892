"""What happens, for those who count and trace: one class with a method for each thing that happens."""

import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec

from modelslab_async.errors import ModelsLabError
from modelslab_async.job.future import Job
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import Video

_log = logging.getLogger("modelslab_async")
_P = ParamSpec("_P")


class Telemetry:
    """`Client(telemetry=...)`. Override what is of interest: here nothing is done.

    The methods are called in the event loop, so they return at once. What they raise is logged and goes no further.
    """

    def submitted(self, job: Job) -> None:
        """A job was handed to the client."""

    def accepted(self, job: Job) -> None:
        """The service took it, and charges it."""

    def polled(self, job: Job, found: str) -> None:
        """A look came back: a fetch or a probe. `found` is what it found, such as "NotReady" or "Readable"."""

    def ended(self, job: Job) -> None:
        """It has a result: `job.state`, `job.exception()`."""

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
        """Its file is on disk."""

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """The service did not take it: for want of a place (None: it goes again), or with this error for good."""

    def retried(self, job: Job, error: ModelsLabError) -> None:
        """Its submit surely was not taken, and is sent again."""


class Notifier:
    """Notify the application's telemetry, if it has one. What its methods raise is logged and goes no further."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry

    def notify(self, method: Callable[Concatenate[Telemetry, _P], None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call the telemetry's own version of *method*."""
        if self._telemetry:
            try:
                getattr(self._telemetry, method.__name__)(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the application's
                _log.exception("telemetry failed")
