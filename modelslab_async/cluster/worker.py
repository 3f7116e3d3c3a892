"""What runs on the workers: a plugin that opens one client on each worker, and the task that makes an item."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from distributed import Worker, WorkerPlugin, get_worker

from modelslab_async.batch.maker import LocalMaker, Made, in_thread, job_error, request_of
from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.results import to_json
from modelslab_async.client import Client
from modelslab_async.cluster.messages import Outcome, Report, Setup, Task
from modelslab_async.errors import (
    JobDetachedError,
    JobFailedError,
    ModelsLabError,
    SubmitUncertainError,
)
from modelslab_async.job.future import Job
from modelslab_async.journal.choose import is_database
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.request import evolved

JOURNAL_VARIABLE = "MODELSLAB_JOURNAL"
_OPENING = 60.0
"""Seconds for which a task waits until its worker's client is open."""


class _PictureMissingError(Exception):
    """The worker can read neither the picture nor a copy of it."""


class WorkerClient(WorkerPlugin):
    """Open one client when a worker starts, and close it when the worker ends or the batch does."""

    def __init__(self, setup: Setup) -> None:
        self.name = setup.plugin
        self.arguments = setup

    async def setup(self, worker: Worker) -> None:
        """Open the client, and test the folder. Raises an error that the driver shows."""
        self.stop = asyncio.Event()
        self.is_open = asyncio.Event()
        self.jobs = dict[str, Job]()
        arguments = self.arguments
        self.client = Client(journal=_journal(arguments), **arguments.options)
        self.maker = _WorkerMaker(
            client=self.client,
            folder=arguments.folder,
            name=arguments.name,
            host=f"{platform.node()}/{worker.name}" if isinstance(worker.name, int) else str(worker.name),
            stop=self.stop,
        )
        await self.client.__aenter__()
        answer = arguments.answer(hashlib.sha256(worker.id.encode()).hexdigest()[:16])
        try:
            self._require_account(worker)
            await in_thread(_answer, arguments, answer)
        except BaseException:
            await self.client.aclose(drain=False)
            raise
        self.report = Report(threads=worker.state.nthreads, answer=answer)
        self.is_open.set()

    def _require_account(self, worker: Worker) -> None:
        if self.client.account_id != self.arguments.account:
            hint = "give each worker the MODELSLAB_API_KEY of the driver"
            raise refusal("cluster", worker.address, "has another API key, or another base URL", hint)

    async def teardown(self, worker: Worker) -> None:  # noqa: ARG002 - Dask's
        """Close the client. Its jobs are paid for, and are collected by the tasks that run next."""
        self.stop.set()
        await self.client.aclose(drain=False)

    def begun(self, entry: Entry, job: Job) -> None:
        """As in `Observer`."""
        self.jobs[entry.item] = job

    def delayed(self, entry: Entry, job: Job) -> None:
        """As in `Observer`. The driver sees that the job does not begin."""

    def withdraw(self) -> None:
        """Submit no more jobs, and withdraw those that wait for a slot."""
        self.stop.set()
        for job in list(self.jobs.values()):
            job.cancel()

    async def make(self, task: Task) -> Outcome:
        """Make an item."""
        async with asyncio.timeout(_OPENING):
            await self.is_open.wait()
        if self.stop.is_set():
            return Outcome()
        try:
            made = await self._make(task)
        except _PictureMissingError:
            return Outcome(is_picture_missing=True)
        except JobDetachedError:
            return Outcome(is_detached=True)
        except (ModelsLabError, OSError) as error:
            self.client.api_key.hide_in(error)
            error.__traceback__ = error.__cause__ = error.__context__ = None
            return Outcome(error=error)
        finally:
            self.jobs.pop(task.entry.item, None)
        if made.result:
            result = attrs.evolve(made.result, **self.client.api_key.redact(attrs.asdict(made.result, recurse=False)))
            return Outcome(result=to_json(result))
        return Outcome(is_detached=made.job is not None and isinstance(job_error(made.job), JobDetachedError))

    async def _make(self, task: Task) -> Made:
        if task.is_paid:
            record = await self.client.find(task.ref)
            return await self.maker.collect(task.entry, None, record, self) if record else Made()
        entry = await in_thread(_with_picture, task)
        return await self.maker.submit(entry, task.ref, self)


class _WorkerMaker(LocalMaker):
    """Make items that another worker, or another run of the batch, may make too."""

    async def start(self, entry: Entry, ref: str) -> Job:
        """Return the item's job, which is submitted once, whichever worker asks for it."""
        request = request_of(entry)
        row = await self.journal.find(self.client.account_id, ref=ref)
        if row and row.record.state is JobState.WAITING and not row.is_alive:
            # It was never sent. The earlier run may have named its picture by a path of another host.
            job = self.client.submit(request, track_id=ref)
        else:
            try:
                job = await self.client.ensure(request, ref=ref)
            except (JobFailedError, SubmitUncertainError):
                return await self.client.follow(ref)
        if job.state is JobState.WAITING:
            job.target = self.folder
        return job


async def make(plugin: str, task: Task) -> Outcome:
    """Make an item with the client of the worker that runs this task."""
    installed = get_worker().plugins.get(plugin)
    return await installed.make(task) if isinstance(installed, WorkerClient) else Outcome(is_detached=True)


def report(plugin: str, dask_worker: Any = None) -> Report | None:
    """Return what a worker says of itself; None if it has no client."""
    installed = dask_worker.plugins.get(plugin)
    return installed.report if isinstance(installed, WorkerClient) and installed.is_open.is_set() else None


async def withdraw(plugin: str, dask_worker: Any = None) -> None:
    """Submit no more jobs on a worker."""
    installed = dask_worker.plugins.get(plugin)
    if isinstance(installed, WorkerClient):
        installed.withdraw()


def _journal(setup: Setup) -> Path | PostgresJournal:
    """Return the journal of a worker. The password of a database comes from the worker's environment."""
    if not is_database(setup.journal):
        if platform.node() != setup.node:
            requirement = f"is a file on the host {setup.node}, and this worker runs on {platform.node()}"
            raise refusal("journal", setup.journal, requirement, "pass postgresql://USER@HOST/DATABASE")
        return Path(setup.journal)
    wanted = PostgresJournal(setup.journal)
    own = os.environ.get(JOURNAL_VARIABLE, "")
    if not is_database(own):
        return wanted
    journal = PostgresJournal(own)
    if journal.place != wanted.place:
        requirement = f"must be the database of the driver, {wanted.place}"
        raise refusal(JOURNAL_VARIABLE, journal.place, requirement, "use one host name for the database everywhere")
    return journal


def _answer(setup: Setup, answer: Path) -> None:
    """Read the driver's file and write the worker's. Raises InvalidRequestError if the folder is another one."""
    found = None
    with suppress(OSError):
        found = setup.question.read_text()
    if found != setup.token:
        requirement = f"must be the same folder on all hosts: the worker on {platform.node()} does not see its files"
        raise refusal("folder", str(setup.folder), requirement, "mount one folder at this path on each host")
    try:
        answer.write_text(setup.token)
    except OSError as error:
        requirement = f"must be writable on all hosts: on {platform.node()}, {error.strerror}"
        raise refusal("folder", str(setup.folder), requirement, "give the workers write permission") from None


def _with_picture(task: Task) -> Entry:
    """Return the item with a picture that this worker can read. Raises _PictureMissingError if it can read none."""
    request = task.entry.request
    if request is None or task.digest is None:
        return task.entry
    for path in filter(None, (getattr(request, "init_image", None), task.copy)):
        if isinstance(path, str | os.PathLike):
            with suppress(OSError, ValueError):
                if hashlib.sha256(Path(path).read_bytes()).hexdigest() == task.digest:
                    return attrs.evolve(task.entry, request=evolved(request, init_image=Path(path)))
    raise _PictureMissingError
