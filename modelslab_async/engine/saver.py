"""Save videos: from a finished job to a file on disk."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from decimal import Decimal

from modelslab_async.aio import now
from modelslab_async.engine.recorder import Recorder
from modelslab_async.errors import InvalidVideoError
from modelslab_async.job.future import Job
from modelslab_async.media import download
from modelslab_async.media.containers import CONTAINERS
from modelslab_async.media.saved import Progress, SavedVideo
from modelslab_async.protocol import wire
from modelslab_async.protocol.lifecycle import Video
from modelslab_async.protocol.operations import OPERATIONS
from modelslab_async.protocol.problems import require
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi

MAX_SAVES = 50
"""Downloads that run at a time, each with a connection and an open file. Further ones wait; submits do not."""
_ROUNDS = 3
"""Attempts at all links before a video counts as unreadable."""


class Saver:
    """Download videos, and record in the journal where they were saved."""

    def __init__(self, api: ServiceApi, notifier: Notifier, recorder: Recorder, slots: asyncio.Semaphore) -> None:
        self.api, self.notifier, self.recorder, self.slots = api, notifier, recorder, slots
        self.saves = set[asyncio.Future[None]]()
        """One future for each `save` that runs; `Client.aclose` waits for them."""

    async def save(
        self,
        video: Video | str | Job,
        path: str | os.PathLike[str],
        progress: Progress | None,
        *,
        overwrite: bool,
        max_bytes: int,
    ) -> SavedVideo:
        """Save a video, a job's video once it is there, or the file behind a URL."""
        self.api.key.require_absent(video=video, path=path)
        is_count = isinstance(max_bytes, int) and not isinstance(max_bytes, bool) and max_bytes > 0
        require((is_count, "max_bytes", max_bytes, "must be an integer above 0", "omit it for 2 GiB"))
        ended = asyncio.get_running_loop().create_future()
        self.saves.add(ended)
        try:
            price = video.price if isinstance(video, Job) else None
            video = await video if isinstance(video, Job) else video

            row = OPERATIONS.get(video.operation) if isinstance(video, Video) else None
            allowed = row.containers if row else CONTAINERS

            async def get(links: Sequence[str]) -> SavedVideo:
                async with self.slots:
                    at = now()
                    saved = await download.save(
                        self.api,
                        links,
                        path,
                        progress=progress,
                        overwrite=overwrite,
                        max_bytes=max_bytes,
                        allowed=allowed,
                    )
                if isinstance(video, Video):
                    self.notifier.notify(Telemetry.downloaded, video, saved, now() - at)
                return saved

            return await (get([video]) if isinstance(video, str) else self._collect(video, get, price))
        finally:
            self.saves.discard(ended)
            ended.cancel()

    async def _collect(
        self, video: Video, get: Callable[[Sequence[str]], Awaitable[SavedVideo]], price: Decimal | None
    ) -> SavedVideo:
        """Try all links, then ask the service for fresh ones: links expire, and a gateway may answer with a page."""
        links, delays = list(dict.fromkeys((video.url, *video.links))), self.api.backoff()
        rounds = 0
        while True:
            try:
                saved = await get(links)
            except InvalidVideoError as error:
                rounds += 1
                if rounds == _ROUNDS:
                    error.about(ref=video.ref, job_id=video.id, charged=True, price=price)
                    raise
                await asyncio.sleep(next(delays))
                links = list(dict.fromkeys((*await self._fresh_links(video), *links)))
            else:
                await self.recorder.record_saved(video.ref, str(saved.path.absolute()))
                return saved

    async def _fresh_links(self, video: Video) -> tuple[str, ...]:
        """Return the links that the service names now. Return none if it cannot be asked."""
        row = OPERATIONS.get(video.operation)
        if not video.id or row is None or self.api.deployment not in row.endpoints:
            return ()
        answer = await self.api.fetch(video.operation, video.id, self.api.timeouts.fetch)
        return answer.links if isinstance(answer, wire.Ready) else ()
