"""The paid part: from a job's turn to the service's answer."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from modelslab_async.aio import wait_for_event
from modelslab_async.engine.endings import closed_before, mistake, uncertain
from modelslab_async.engine.recorder import Recorder
from modelslab_async.errors import (
    JobFailedError,
    MalformedReplyError,
    ModelsLabError,
    SubmitUncertainError,
    TransportError,
)
from modelslab_async.job.future import Job
from modelslab_async.media import images
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.reply import Refused
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi, wished

_log = logging.getLogger("modelslab_async")


class Submitter:
    """Sends what is paid for: written down before, never sent twice."""

    def __init__(self, api: ServiceApi, notifier: Notifier, recorder: Recorder) -> None:
        self.api, self.notifier, self.recorder = api, notifier, recorder

    async def submit(self, job: Job, has_id: Callable[[str, Job], bool]) -> None:
        """From the job's turn to the service's answer. *has_id* says whether another job here has an id."""
        try:
            body, picture = await self._encoded(job)
            await self.recorder.intend(job, picture)
        except Exception as error:  # noqa: BLE001 - its picture is gone, it cannot be written down, or a mistake: not sent
            job._advance(lifecycle.Rejected(error if isinstance(error, ModelsLabError) else mistake(job, error)))
            return
        event = await self._post_submit(job, body)
        try:
            job_id = event.id if isinstance(event, wire.Accepted | wire.Ready) else None
            is_taken = bool(job_id and has_id(job_id, job)) or not await self.recorder.answered(job, event)
            if is_taken:
                event = lifecycle.ReplyLost(_of_another_job(job_id), awaits_webhook=job._is_called)
        finally:
            job._advance(event)

    async def _encoded(self, job: Job) -> tuple[bytes, Mapping[str, Any]]:
        """The body, and what the journal keeps of the picture in it."""
        if isinstance(job._image, images.ImageUrl):
            return self._encode(job)
        return await asyncio.get_running_loop().run_in_executor(None, self._encode, job)

    def _encode(self, job: Job) -> tuple[bytes, Mapping[str, Any]]:
        request, image = job.request, job._image
        assert request is not None  # noqa: S101 - a job without a request was submitted elsewhere
        assert image is not None  # noqa: S101 - it was not sent yet
        params = wire.encode_request(request, ref=job.ref)
        picture = images.load(image)
        return wire.encode_body(params, self.api.key, picture=picture), images.facts(image, picture)

    async def _post_submit(self, job: Job, body: bytes) -> lifecycle.Event:
        """The paid POST, repeated only while it surely was not taken."""
        waits = islice(self.api.backoff(), retry.SUBMIT_ATTEMPTS - 1)
        while not self.api.closing.is_set():
            match reply := await self._post_once(job, body):
                case wire.Accepted(notes=notes):
                    self.api.note(notes)
                    return reply
                case wire.Ready():
                    return reply
                case wire.Failed(message=message, id=job_id):
                    return lifecycle.Failed(JobFailedError(f"the service failed the job at once: {message}"), job_id)
            error = reply if isinstance(reply, TransportError) else wire.error_of(reply)
            match retry.after_submit(error):
                case retry.Verdict.REPEAT if (wait := next(waits, None)) is not None:
                    self.notifier.notify(Telemetry.retried, job, error)
                    _log.warning("%r: surely not taken, so it is sent again: %s", job, error)
                    await wait_for_event(self.api.closing, max(wait, wished(error)))
                case retry.Verdict.PUT_BACK:
                    maximum = reply.maximum if isinstance(reply, Refused) else None
                    return lifecycle.PutBack(wished(error) or None, maximum)
                case retry.Verdict.REPEAT | retry.Verdict.REFUSED:
                    return lifecycle.Rejected(error)
                case retry.Verdict.UNCERTAIN if job._heard_id:
                    job._is_found = True
                    return wire.Accepted(id=job._heard_id)
                case retry.Verdict.UNCERTAIN:
                    return lifecycle.ReplyLost(uncertain(error), awaits_webhook=job._is_called)
        return lifecycle.PutBack() if self.recorder.is_kept(job) else lifecycle.Rejected(closed_before())

    async def _post_once(self, job: Job, body: bytes) -> wire.SubmitReply | TransportError:
        try:
            path = wire.SUBMIT_PATHS[self.api.deployment]
            reply = await self.api.post("submit", path, body, self.api.timeouts.submit)
        except TransportError as error:
            return error
        except asyncio.CancelledError:
            job._advance(lifecycle.ReplyLost(SubmitUncertainError("cancelled while the submit was under way")))
            raise
        return wire.decode_submit(reply, self.api.key)


def _of_another_job(job_id: str | None) -> SubmitUncertainError:
    return uncertain(MalformedReplyError(f"the service answered with the id {job_id}, which another job has"))
