"""Notify an application of what happens, for its metrics and traces."""

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
    """Base class for `Client(telemetry=...)`. Override the methods that you need; here they do nothing.

    The event loop calls the methods, so they must return at once. An exception that one raises is logged and goes no
    further.
    """

    def submitted(self, job: Job) -> None:
        """A job was passed to `Client.submit`, and waits for its turn."""

    def started(self, job: Job, waited: float) -> None:
        """The job got a slot, *waited* seconds after it was created, and is about to be sent.

        This is repeated if the service has no free slot, so that the job waits again.
        """

    def recovered(self, job: Job) -> None:
        """This client took the job over from a client that is gone, so it reported no `submitted`.

        If the job is already done, because its video was ready or its reply was lost, no `ended` follows.
        """

    def accepted(self, job: Job) -> None:
        """The service accepted the job, and charges it."""

    def polled(self, job: Job, found: str) -> None:
        """A poll returned: a fetch or a probe. *found* names the result, such as "NotReady" or "Readable"."""

    def ended(self, job: Job) -> None:
        """The job has a result or an error, see `job.state` and `job.error`."""

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
        """A video was saved to disk. *seconds* is how long the download took."""

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """The job was refused for good, with *error*: by the service, or by the client before it was sent.

        If *error* is None, the job was not accepted and waits for a free slot again.
        """

    def retried(self, job: Job, error: ModelsLabError) -> None:
        """The job was certainly not accepted, because of *error*, and is submitted again."""


class Notifier:
    """Notify the application's telemetry, if it has one. An exception that it raises is logged."""

    def __init__(self, telemetry: Telemetry | None) -> None:
        self._telemetry = telemetry

    def notify(self, method: Callable[Concatenate[Telemetry, _P], None], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Call the telemetry's own version of *method*."""
        if self._telemetry:
            try:
                getattr(self._telemetry, method.__name__)(*args, **kwargs)
            except Exception:  # noqa: BLE001 - the application's code
                _log.exception("the application's telemetry failed")
