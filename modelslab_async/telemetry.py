"""What happens, for those who count and trace: one class with a method for each thing that happens."""

from modelslab_async.errors import ModelsLabError
from modelslab_async.job import Job
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.saved import SavedVideo


class Telemetry:
    """`Client(telemetry=...)`. Override what is of interest: here nothing is done.

    The methods are called in the event loop, so they return at once. What they raise is logged and goes no further.
    """

    def submitted(self, job: Job) -> None:
        """A job was handed to the client."""

    def accepted(self, job: Job) -> None:
        """The service took it, and charges it."""

    def looked(self, job: Job, found: str) -> None:
        """A look came back: a fetch or a probe. `found` is what it found, such as "NotReady" or "Readable"."""

    def ended(self, job: Job) -> None:
        """It has a result: `job.state`, `job.exception()`."""

    def downloaded(self, video: Video, saved: SavedVideo, seconds: float) -> None:
        """Its file is on disk."""

    def refused(self, job: Job, error: ModelsLabError | None) -> None:
        """The service did not take it: for want of a place (None: it goes again), or with this error for good."""

    def retried(self, job: Job, error: ModelsLabError) -> None:
        """Its submit surely was not taken, and is sent again."""
