"""The videos of the emulator's jobs: ordered from the renderer, kept in the store, and removed with their jobs."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

import attrs

from modelslab_async.emulator.files import skeleton
from modelslab_async.emulator.job import EmulatedJob, Work
from modelslab_async.emulator.render import UnwantedError, render
from modelslab_async.emulator.renderer import Renderer
from modelslab_async.emulator.service import Service
from modelslab_async.emulator.store import FolderStore, digest_of

_log = logging.getLogger("modelslab_async.emulator")


class Videos:
    """Make and keep the videos of the jobs of *service*. Call `open` in the event loop before anything else.

    make: called in a thread with a job's work; returns its video. None renders a real mp4. A `skeleton` takes no time,
        so it is made when it is read.
    """

    def __init__(self, service: Service, store: FolderStore, make: Callable[[Work], bytes] | None) -> None:
        self._service, self._store, self._make = service, store, make
        self._names: dict[int, str] = {}
        """The name of each job's video in the store, by the job's id."""
        self._is_closing = threading.Event()
        service.on_forget = self._forget

    def open(self, now: Callable[[], float]) -> None:
        """Start. *now* is the clock of the jobs."""
        self._now = now
        self._is_closing.clear()
        self._renderer = Renderer(now) if self._make is None else Renderer(now, seconds_per_pixel=0.0)

    async def close(self) -> None:
        """Stop the renderer, also in the middle of a video."""
        self._is_closing.set()
        await self._renderer.close()

    @property
    def are_instant(self) -> bool:
        """Whether a video takes no time."""
        return self._make is skeleton

    def seconds_until_ready(self, work: Work) -> float:
        """Return about how long it takes until this video is ready, given those that are ordered already."""
        return 0.0 if self.are_instant else self._renderer.seconds_until_ready(_pixels(work))

    def order(self, job: EmulatedJob) -> asyncio.Future[bytes] | None:
        """Order the job's video for the end of the job. Return its rendering, or None if it is there already.

        The job is processing until then. If the renderer fails, the job fails, as at the service.
        """
        if self.are_instant:
            self._drop_picture(job)
            return None
        self._service.queue.start_rendering(job)
        name = _name(job)
        if self._store.share(name):
            self._end(job, name)
            return None
        rendering = self._renderer.order(name, _pixels(job.work), self._maker(job), lambda: job.done_at)
        rendering.add_done_callback(lambda done: self._rendered(job, name, done))
        return rendering

    def _maker(self, job: EmulatedJob) -> Callable[[], bytes]:
        """Return the function that makes the job's video, for a thread."""
        path = self._store.path(job.picture) if job.source else None

        def make() -> bytes:
            work = attrs.evolve(job.work, picture=path.read_bytes() if path else b"")
            return self._make(work) if self._make else render(work, is_wanted=lambda: not self._is_closing.is_set())

        return make

    def _rendered(self, job: EmulatedJob, name: str, rendering: asyncio.Future[bytes]) -> None:
        error = None if rendering.cancelled() else rendering.exception()
        if rendering.cancelled() or isinstance(error, UnwantedError):
            self._fail(job, "the emulator is closing")
        elif error:
            failure = f"the emulator could not render it: {error!r}"
            _log.error("job %d failed: %s", job.id, failure)
            self._fail(job, failure)
        else:
            self._store.put(rendering.result(), name)
            self._end(job, name)

    def _fail(self, job: EmulatedJob, failure: str) -> None:
        self._drop_picture(job)
        self._service.queue.finish_rendering(job, self._now(), failure)

    def _end(self, job: EmulatedJob, name: str) -> None:
        self._drop_picture(job)
        if job.id in self._service.jobs:
            self._names[job.id] = name
        else:  # it was forgotten meanwhile
            self._store.drop(name)
        self._service.queue.finish_rendering(job, self._now(), "")

    def _drop_picture(self, job: EmulatedJob) -> None:
        self._store.drop(job.picture)
        job.picture = ""

    def _forget(self, job: EmulatedJob) -> None:
        """Remove the video of a job that is not kept any more."""
        if name := self._names.pop(job.id, None):
            self._store.drop(name)

    def prefer(self, job_id: str) -> None:
        """Render the video of this job, if there is one, before others that are due."""
        job = (
            self._service.jobs.get(int(job_id)) if job_id.isascii() and job_id.isdigit() and len(job_id) < 19 else None
        )
        if job and job.is_rendering:
            self._renderer.hurry(_name(job))

    def reschedule(self) -> None:
        """Notice that the clock or the end of a job has changed."""
        self._renderer.reschedule()

    def content(self, job: EmulatedJob) -> bytes:
        """Return the job's video. Raise LookupError or OSError if it has been removed."""
        return skeleton(job.work) if self.are_instant else self._store.get(self._names[job.id])


def _pixels(work: Work) -> int:
    return work.width * work.height * work.frames


def _name(job: EmulatedJob) -> str:
    """Return the name of the job's video. Jobs of equal work share one."""
    return digest_of(repr((job.work, job.picture)).encode(errors="surrogatepass"))
