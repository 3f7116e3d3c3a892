"""Submit a job: the paid request, from the job's turn to the service's answer."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from modelslab_async.aio import wait_for_event
from modelslab_async.engine.recorder import Recorder
from modelslab_async.errors import (
    JobError,
    JobFailedError,
    MalformedReplyError,
    ModelsLabError,
    SubmitUncertainError,
    TransportError,
)
from modelslab_async.job.run import JobRun, closed_before_sending, internal_error
from modelslab_async.media import inputs
from modelslab_async.media.inputs import Sources
from modelslab_async.protocol import lifecycle, retry, wire
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.reply import Refused
from modelslab_async.protocol.request import Request
from modelslab_async.protocol.slots import Slots
from modelslab_async.telemetry import Notifier, Telemetry
from modelslab_async.transport.api import ServiceApi, finite, retry_after

_log = logging.getLogger("modelslab_async")


class Submitter:
    """Send paid requests: each is recorded before it is sent, and none is sent twice."""

    def __init__(self, api: ServiceApi, notifier: Notifier, recorder: Recorder, slots: Slots[JobRun]) -> None:
        self.api, self.notifier, self.recorder, self.slots = api, notifier, recorder, slots

    async def submit(self, run: JobRun, has_id: Callable[[str, JobRun], bool]) -> None:
        """Submit a job and advance it by the answer. *has_id* says whether another job here has this id."""
        if run.body is None and not await self.encode(run):
            return
        body, run.body = run.body or b"", None
        event = await self._post_submit(run, body)
        try:
            job_id = event.id if isinstance(event, wire.Accepted | wire.Ready) else None
            id_is_anothers = bool(job_id and has_id(job_id, run)) or not await self.recorder.record_acceptance(
                run, event
            )
            if id_is_anothers:
                event = lifecycle.ReplyLost(_id_of_another_job(job_id), awaits_webhook=run.has_webhook)
            if isinstance(event, lifecycle.PutBack):
                ask = self.slots.ask()
                await self.recorder.record_refusal(run, event, ask._replace(held=ask.held - 1))
        finally:
            run.advance(event)

    async def encode(self, run: JobRun) -> bool:
        """Encode the request of a job, with its files. Return False if the job is not to be sent.

        Files that do not travel inside the request are uploaded now. A failure ends the job.
        """
        try:
            assert run.media is not None  # noqa: S101 - the files are kept until they are sent
            if not run.media.is_local:
                body, facts = self._encode(run.request, run.ref, run.media)
            else:
                if run.media.others and not await self._upload_files(run):
                    return False
                loop = asyncio.get_running_loop()
                body, facts = await loop.run_in_executor(None, self._encode, run.request, run.ref, run.media)
        except Exception as error:  # noqa: BLE001 - the picture is gone, or a bug
            if not run.future.done():
                known = error if isinstance(error, ModelsLabError) else internal_error(run, error)
                run.advance(lifecycle.Rejected(known))
            return False
        if run.future.done():
            return False
        run.body = body
        if run.record:
            run.record = run.record._replace(picture=self.api.key.redact(facts))
        return True

    async def _upload_files(self, run: JobRun) -> bool:
        """Upload the files of a job. Return False if the client closed or the job ended meanwhile.

        Raise InvalidRequestError, APIError, TransportError, or JobError if they take too long.
        """
        media, limit = run.media, finite(self.api.timeouts.submit)
        assert media is not None  # noqa: S101 - the files are kept until they are sent
        uploading = run.loop.create_task(self._uploaded(media.others))
        closing = run.loop.create_task(self.api.closing.wait())
        try:
            ends = uploading, closing, run.future
            await asyncio.wait(ends, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if uploading.done():
                run.media = media._replace(others=uploading.result())
                return True
            if run.future.done():
                return False
            if not closing.done():
                raise JobError(f"the uploads took longer than {limit:g} s (hint: raise Timeouts.submit)")
            if run.state is JobState.SUBMITTING and (obstacle := self._obstacle(run)):
                run.advance(obstacle)
            return False
        finally:
            for task in (uploading, closing):
                task.cancel()
            await asyncio.gather(uploading, closing, return_exceptions=True)

    async def _uploaded(self, others: Mapping[str, Sources]) -> Mapping[str, Sources]:
        """Return the files with a URL for each. Raise InvalidRequestError, APIError or TransportError."""
        found = dict[str, Sources]()
        for name, value in others.items():
            urls = [await self._upload(each) for each in (value if isinstance(value, list) else [value])]
            found[name] = urls if isinstance(value, list) else urls[0]
        return found

    async def _upload(self, source: inputs.Source) -> inputs.Source:
        data = await asyncio.get_running_loop().run_in_executor(None, inputs.load, source)
        return source if isinstance(data, str) else inputs.Url(await self.api.upload(data, inputs.type_of(data) or ""))

    def _encode(self, request: Request | None, ref: str, media: inputs.Media) -> tuple[bytes, Mapping[str, Any] | None]:
        """Return a request's body, and what the journal keeps of the picture in it."""
        assert request is not None  # noqa: S101 - a job without a request was submitted elsewhere
        params = {**wire.encode_request(request, ref=ref), **inputs.stored(media._replace(picture=None))}
        if media.picture is None:
            return wire.encode_body(params, self.api.key), None
        picture = inputs.load(media.picture)
        return wire.encode_body(params, self.api.key, picture=picture), inputs.facts(media.picture, picture)

    async def _post_submit(self, run: JobRun, body: bytes) -> lifecycle.Event:
        """Send the paid request. Repeat it only while it certainly was not accepted."""
        waits = islice(self.api.backoff(), retry.SUBMIT_ATTEMPTS - 1)
        while (obstacle := self._obstacle(run)) is None:
            match reply := await self._post_once(run, body):
                case wire.Accepted(notes=notes):
                    self.api.log_notes(notes)
                    return reply
                case wire.Ready():
                    return reply
                case wire.Failed(message=message, id=job_id):
                    return lifecycle.Failed(JobFailedError(f"the service failed the job at once: {message}"), job_id)
            error = reply if isinstance(reply, TransportError) else wire.error_of(reply)
            match retry.after_submit(error):
                case retry.Verdict.REPEAT if (wait := next(waits, None)) is not None:
                    self.notifier.notify(Telemetry.retried, run.job, error)
                    run.log(logging.WARNING, "certainly not accepted, so it is submitted again: %s", error)
                    await wait_for_event(self.api.closing, max(wait, retry_after(error)))
                case retry.Verdict.PUT_BACK:
                    maximum = reply.maximum if isinstance(reply, Refused) else None
                    return lifecycle.PutBack(retry_after(error) or None, maximum)
                case retry.Verdict.REPEAT | retry.Verdict.REFUSED:
                    return lifecycle.Rejected(error)
                case retry.Verdict.UNCERTAIN if run.id_from_webhook:
                    run.submitted_elsewhere = True
                    return wire.Accepted(id=run.id_from_webhook)
                case retry.Verdict.UNCERTAIN:
                    return lifecycle.ReplyLost(_uncertain(error), awaits_webhook=run.has_webhook)
        return obstacle

    def _obstacle(self, run: JobRun) -> lifecycle.Event | None:
        """Return why a job must not be sent now: the client closes, or may count as dead. None if it may."""
        if self.api.closing.is_set():
            return lifecycle.Postponed() if self.recorder.is_kept(run) else lifecycle.Rejected(closed_before_sending())
        return None if self.recorder.may_send() else lifecycle.Deferred()

    async def _post_once(self, run: JobRun, body: bytes) -> wire.SubmitReply | TransportError:
        try:
            path = wire.submit_path(run.operation, self.api.deployment)
            reply = await self.api.post("submit", path, body, self.api.timeouts.submit)
        except TransportError as error:
            return error
        except asyncio.CancelledError:
            run.advance(lifecycle.ReplyLost(SubmitUncertainError("cancelled while the submit was under way")))
            raise
        return wire.decode_submit(reply, self.api.key)


def _uncertain(error: ModelsLabError) -> SubmitUncertainError:
    """Return the error of a submit whose reply was lost, or decides nothing."""
    message = f"the submit was sent and its outcome is unknown, so it is not sent again: {error.args[0]}"
    lost = SubmitUncertainError(message)
    lost.__cause__ = error
    return lost


def _id_of_another_job(job_id: str | None) -> SubmitUncertainError:
    return _uncertain(MalformedReplyError(f"the service answered with the id {job_id}, which another job has"))
