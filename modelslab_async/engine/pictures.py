"""Keep the local pictures of waiting jobs in the journal, so that a client on another host can send them."""

import asyncio
import logging
from collections import deque

from modelslab_async.engine.recorder import Recorder
from modelslab_async.errors import InvalidRequestError, JournalError
from modelslab_async.job.run import JobRun
from modelslab_async.media import inputs
from modelslab_async.protocol.lifecycle import JobState

_CLOSE_SECONDS = 5.0
_log = logging.getLogger("modelslab_async")


class PictureKeeper:
    """Copy pictures into a journal that keeps them, one after the other, while their jobs wait."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._queue = deque[JobRun]()
        self._task: asyncio.Task[None] | None = None

    def keep(self, run: JobRun) -> None:
        """Queue the picture of a job that was just queued itself. A URL needs no copy."""
        journal = self._recorder.journal
        picture = run.media.picture if run.media else None
        if journal is None or not journal.keeps_pictures or picture is None or isinstance(picture, inputs.Url):
            return
        self._queue.append(run)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="modelslab_async pictures")

    async def close(self) -> None:
        """Keep the pictures of jobs that still wait, for at most `_CLOSE_SECONDS`, and stop."""
        if task := self._task:
            await asyncio.wait([task], timeout=_CLOSE_SECONDS)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while self._queue:
                await self._keep(self._queue.popleft())
        finally:
            self._task = None

    async def _keep(self, run: JobRun) -> None:
        journal, record = self._recorder.journal, run.record
        image = run.media.picture if run.media else None
        if journal is None or image is None or record is None or run.state is not JobState.WAITING:
            return
        try:
            picture = await asyncio.get_running_loop().run_in_executor(None, inputs.load, image)
            if run.state is JobState.WAITING and isinstance(picture, bytes):
                await journal.keep_picture(record, picture)
        except (InvalidRequestError, JournalError) as error:
            run.log(logging.WARNING, "its picture is not kept, so no other client can send it: %s", error)
