"""Make the items of a batch with a client: collect or submit the job, save its video, and return the result."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import attrs

from modelslab_async.batch import steps
from modelslab_async.batch.decider import Decision
from modelslab_async.batch.files import examine, modified_at, save_as, values_of
from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.naming import names
from modelslab_async.batch.results import Result
from modelslab_async.batch.steps import Action
from modelslab_async.client import Client
from modelslab_async.engine.requests import differences
from modelslab_async.errors import (
    InvalidRequestError,
    InvalidVideoError,
    JobDetachedError,
    NotFoundError,
    RefInUseError,
)
from modelslab_async.job.future import Job
from modelslab_async.journal.base import Journal
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.record import SENT, JobRecord
from modelslab_async.protocol.request import Request

OUTAGE_PATIENCE = 600.0
"""Seconds for which submits are repeated during an outage, before the batch stops."""
SAVING_PATIENCE = 60.0
"""Seconds for which the client that ran a job may save the video, before another run of the batch saves it too."""
_OUTAGE_PAUSE = 20.0
"""Seconds between two submits of an item during an outage."""
_CHECK_EVERY = 2.0
"""Seconds after which a row is read again, if no change of the journal was noticed before."""

_T = TypeVar("_T")


class Made(NamedTuple):
    """What became of an item in this run.

    result: the result to write; None if nothing was done with the item, or if its job still runs.
    job: the item's job; None if it has none.
    """

    result: Result | None = None
    job: Job | None = None


class Observer(Protocol):
    """Is notified while an item is made."""

    def begun(self, entry: Entry, job: Job) -> None:
        """Note that the item was submitted, or that its paid job is collected."""
        ...

    def delayed(self, entry: Entry, job: Job) -> None:
        """Note that the service cannot be reached, and that the item will be submitted again."""
        ...


class Maker(Protocol):
    """Make items."""

    async def make(self, entry: Entry, decision: Decision, observer: Observer) -> Made:
        """Do what was decided about an item. Raises an error that would stop the next items too."""
        ...


@attrs.define(kw_only=True)
class LocalMaker:
    """Make items with a client of this process.

    folder: where the videos are saved. name: the pattern of their names.
    host: the name of this host, for results.
    stop: once it is set, an item is not submitted again during an outage.
    claim: reserves a file name for an item, and returns False if another item has it.
    is_shared: whether other runs make the same items, so that a job of another client is saved by that client.
    """

    client: Client
    folder: Path
    name: str
    host: str
    stop: asyncio.Event
    claim: Callable[[str, str], bool] = lambda _item, _name: True
    is_shared: bool = False
    _outage_began_at: float | None = None

    @property
    def journal(self) -> Journal:
        """The client's journal."""
        assert self.client.journal is not None  # noqa: S101 - a batch's client has a journal
        return self.client.journal

    async def make(self, entry: Entry, decision: Decision, observer: Observer) -> Made:
        """As in `Maker`."""
        record = decision.record
        match decision.action:
            case Action.KEEP:
                return Made(decision.result)
            case Action.LEAVE:
                return await self.leave(entry, decision.result, record)
            case Action.COLLECT if record:
                return await self.collect(entry, decision.result, record, observer)
            case _:
                return await self.submit(entry, decision.ref, observer)

    async def leave(self, entry: Entry, known: Result | None, record: JobRecord | None) -> Made:
        """Leave the item. Return a result if the journal knows a newer state of an attempt that was sent."""
        is_newer = record is not None and (known is None or (known.ref, known.state) != (record.ref, record.state))
        if record is None or record.state not in SENT or not is_newer:
            return Made()
        current: JobRecord | None = record
        if record.state is JobState.SUBMITTING:  # it becomes UNCERTAIN if its client died
            current = next(iter((await self.client.recover([record.ref])).uncertain), None)
        return Made(self._result(entry, current) if current else None)

    async def collect(self, entry: Entry, known: Result | None, record: JobRecord, observer: Observer) -> Made:
        """Resume or follow a job that is paid for, and save its video unless an earlier run has saved it.

        A `track_id` of the manifest may be that of a job with another request, whose video is not the item's.
        """
        if entry.request and entry.request.track_id:
            key = self.client.api_key
            if problems := await differences(entry.request, None, record, key):
                return Made(self.refused(entry, record.ref, RefInUseError(problems)))
        if found := await self.saved_before(entry, record, known):
            return Made(found)
        try:
            job = await self.client.follow(record.ref)
        except NotFoundError:  # the row was replaced meanwhile
            return Made()
        return await self.wait(entry, job, observer)

    async def saved_before(self, entry: Entry, record: JobRecord, known: Result | None = None) -> Result | None:
        """Return the result of a video that the journal says is in the folder; None if no whole file is there."""
        name = steps.inside(self.folder, record.saved_path)
        is_compared = known is not None and known.file == name  # the decider found that its digest differs
        if name is None or is_compared:
            return None
        mtime_ns = await in_thread(modified_at, self.folder / name)  # before the file is read: it may change meanwhile
        found = await in_thread(examine, self.folder / name)
        return self._result(entry, record, saved=(name, found), mtime_ns=mtime_ns) if found else None

    async def submit(self, entry: Entry, ref: str, observer: Observer) -> Made:
        """Submit the item. During an outage, submit it again until it is accepted."""
        while not self.stop.is_set():
            try:
                job = await self.start(entry, ref)
            except InvalidRequestError as error:
                return Made(self.refused(entry, ref, error))
            made = await self.wait(entry, job, observer)
            if made.result or not steps.is_transient(job_error(job)):
                return made
            await self.wait_out(entry, job, observer)
        return Made()

    async def start(self, entry: Entry, ref: str) -> Job:
        """Return the job of an item, which is submitted. Raises InvalidRequestError."""
        job = self.client.submit(request_of(entry), track_id=ref)
        job.target = self.folder
        return job

    def refused(self, entry: Entry, ref: str, error: InvalidRequestError) -> Result:
        """Return the result of an item that the client refused."""
        key = self.client.api_key
        key.hide_in(error)
        return steps.refused(entry, error, service=self.client.base_url, ref=ref, key=key)

    async def wait(self, entry: Entry, job: Job, observer: Observer) -> Made:
        """Wait for the job's end, and save its video. Raises an error that would stop the next items too."""
        observer.begun(entry, job)
        await job.wait()
        error = job_error(job)
        if isinstance(error, steps.ENDS_THE_BATCH):
            raise error
        if job.cancelled() or isinstance(error, JobDetachedError) or steps.is_transient(error):
            return Made(job=job)
        self._outage_began_at = None
        if job.state is not JobState.READY:
            return Made(self._result(entry, _record_of(job), error=error), job)
        if self.is_shared and (saved := await self._saved_by_owner(entry, job)):
            return Made(saved, job)
        try:
            wanted = names(self.name, {**values_of(job, entry.line), "item": entry.item}, job.result().container)
            file = await save_as(job, self.folder, wanted, partial(self.claim, entry.item))
            mtime_ns = await in_thread(modified_at, file[1].path)
            return Made(self._result(entry, _record_of(job), saved=file, mtime_ns=mtime_ns, host=self.host), job)
        except InvalidVideoError as unreadable:
            return Made(self._result(entry, _record_of(job), error=unreadable), job)

    async def _saved_by_owner(self, entry: Entry, job: Job) -> Result | None:
        """Wait until the client that ran the job has saved the video. Return None if this client is to save it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(SAVING_PATIENCE):
                while True:
                    row = await self.journal.find(self.client.account_id, ref=job.ref)
                    if row is None or row.record.owner == self.journal.owner:
                        return None
                    if found := await self.saved_before(entry, row.record):
                        return found
                    if not row.is_alive:
                        return None
                    await self.journal.wait_for_change(_CHECK_EVERY)
        return None

    async def wait_out(self, entry: Entry, job: Job, observer: Observer) -> None:
        """Wait before the next submit. Raises the job's error once the outage has lasted too long."""
        now = asyncio.get_running_loop().time()
        if self._outage_began_at is None:
            self._outage_began_at = now
            observer.delayed(entry, job)
        elif now - self._outage_began_at > OUTAGE_PATIENCE:
            job.result()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.stop.wait(), _OUTAGE_PAUSE)

    def _result(self, entry: Entry, record: JobRecord, **known: Any) -> Result:
        """Return the result of an item. Its host is this one, if this client saved the video or owns the row."""
        host = self.host if record.owner == self.journal.owner else None
        values = {"service": self.client.base_url, "host": host, "now": datetime.now(UTC), **known}
        return steps.result_of(entry, record, **values)


async def in_thread(work: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function in a thread of the event loop's pool."""
    return await asyncio.get_running_loop().run_in_executor(None, partial(work, *arguments))


def request_of(entry: Entry) -> Request:
    """Return an entry's request. Raises InvalidRequestError if the entry could not be read."""
    if entry.request is None:
        raise InvalidRequestError(entry.problems)
    return entry.request


def job_error(job: Job) -> BaseException | None:
    """Return the error of a job that ended; None if it has a video or was cancelled."""
    return None if job.cancelled() else job.exception()


def _record_of(job: Job) -> JobRecord:
    """Return the job's journal row. A batch's client has a journal, so there is one."""
    assert job.record is not None  # noqa: S101 - see above
    return job.record
