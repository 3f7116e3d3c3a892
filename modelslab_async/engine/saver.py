"""The saving part: from a finished video to a file."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence

from modelslab_async.aio import now
from modelslab_async.engine.recorder import Recorder
from modelslab_async.errors import InvalidVideoError
from modelslab_async.job.future import Job
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.problems import require
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi

MAX_SAVES = 50
"""At a time, each with a connection and an open file; others wait, no submit does."""
_ROUNDS = 3
"""How often all links are tried before a video counts as unreadable."""


class Saver:
    """Downloads, and writes down that it did."""

    def __init__(self, api: ServiceApi, notifier: Notifier, recorder: Recorder, room: asyncio.Semaphore) -> None:
        self.api, self.notifier, self.recorder, self.room = api, notifier, recorder, room
        self.saves = set[asyncio.Future[None]]()
        """Each is done when its download is."""

    async def save(
        self,
        video: Video | str | Job,
        path: str | os.PathLike[str],
        progress: Progress | None,
        *,
        overwrite: bool,
        max_bytes: int,
    ) -> SavedVideo:
        """Put a video, a job's video once it is there, or what a URL gives, on disk."""
        self.api.key.require_absent(video=video, path=path)
        is_count = isinstance(max_bytes, int) and not isinstance(max_bytes, bool) and max_bytes > 0
        require((is_count, "max_bytes", max_bytes, "must be an integer above 0", "omit it for 2 GiB"))
        over = asyncio.get_running_loop().create_future()
        self.saves.add(over)
        try:
            video = await video if isinstance(video, Job) else video
            from modelslab_async.media import download  # noqa: PLC0415 - with the first video that is saved

            async def get(links: Sequence[str]) -> SavedVideo:
                async with self.room:
                    at = now()
                    saved = await download.save(
                        self.api, links, path, progress=progress, overwrite=overwrite, max_bytes=max_bytes
                    )
                if isinstance(video, Video):
                    self.notifier.notify(Telemetry.downloaded, video, saved, now() - at)
                return saved

            return await (get([video]) if isinstance(video, str) else self._collect(video, get))
        finally:
            self.saves.discard(over)
            over.cancel()

    async def _collect(self, video: Video, get: Callable[[Sequence[str]], Awaitable[SavedVideo]]) -> SavedVideo:
        """Links die, and the service may name others; a gateway's page in a file's place passes."""
        links, delays = list(dict.fromkeys((video.url, *video.links))), self.api.backoff()
        rounds = 0
        while True:
            try:
                saved = await get(links)
            except InvalidVideoError as error:
                rounds += 1
                if rounds == _ROUNDS:
                    error.about(ref=video.ref, job_id=video.id, charged=True, price=self.recorder.prices.usd)
                    raise
                await asyncio.sleep(next(delays))
                links = list(dict.fromkeys((*await self._fresh_links(video), *links)))
            else:
                await self.recorder.saved(video.ref, str(saved.path.absolute()))
                return saved

    async def _fresh_links(self, video: Video) -> tuple[str, ...]:
        """Where the service says that the file is now; nothing where it cannot be asked."""
        answer = await self.api.fetch(video.id, self.api.timeouts.fetch) if video.id else None
        return answer.links if isinstance(answer, wire.Ready) else ()
