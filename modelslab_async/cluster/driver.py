"""The driver of a batch on a cluster: it hands out the items, and gets their results."""

from __future__ import annotations

import asyncio
import hashlib
import platform
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs
import distributed
from distributed.client import FutureCancelledError

from modelslab_async.batch.decider import Decider, Decision
from modelslab_async.batch.maker import LocalMaker, Made, Maker, Observer, in_thread
from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.opening import journal_name, local_maker
from modelslab_async.batch.results import Result, from_json
from modelslab_async.batch.steps import Action
from modelslab_async.client import DEFAULT_MAX_IN_FLIGHT
from modelslab_async.cluster import worker
from modelslab_async.cluster.local import local_cluster
from modelslab_async.cluster.messages import Outcome, Report, Setup, Task
from modelslab_async.cluster.watcher import Watcher
from modelslab_async.engine.config import call_of
from modelslab_async.errors import ConnectError, InvalidRequestError, ModelsLabError
from modelslab_async.journal.postgres import PostgresJournal
from modelslab_async.media import inputs
from modelslab_async.protocol.problems import refusal
from modelslab_async.protocol.request import Deployment, evolved

_CONNECT_SECONDS = 15.0
"""Seconds in which the scheduler must answer and a worker must be there."""
_CLOSE_SECONDS = 10.0
"""Seconds in which the workers are asked to close their clients."""
_MOST_DEATHS = 10
"""How often a task is handed out again after Dask gave it up, since each of its workers died (3 times by default)."""
_PAUSE = 1.0
"""Seconds before a task is handed out again."""


@asynccontextmanager
async def open_maker(
    decider: Decider, address: str, options: Mapping[str, Any], notify: Callable[[str], object]
) -> AsyncIterator[Callable[[Decider, asyncio.Event], Maker]]:
    """Connect to a cluster, and open a client on each worker. Yield what makes a batch's maker.

    Raises InvalidRequestError if the cluster cannot be used, or another error of a worker's client.
    """
    client, journal = decider.client, decider.journal
    slots = int(options.get("max_in_flight", DEFAULT_MAX_IN_FLIGHT))
    async with AsyncExitStack() as stack:
        is_local = address == "local"
        if is_local:
            address = await stack.enter_async_context(local_cluster(client, journal, slots))
        if not isinstance(journal, PostgresJournal) and not is_local:
            _require_this_host(address)
        setup = Setup(
            account=client.account_id,
            batch=decider.folder.batch,
            journal=journal.dsn if isinstance(journal, PostgresJournal) else journal_name(journal),
            node=platform.node(),
            options={
                "base_url": client.base_url,
                "enterprise": client.deployment is Deployment.ENTERPRISE,
                **options,
            },
            folder=decider.folder.path.absolute(),
            name=decider.options.name,
            token=secrets.token_hex(8),
        )
        dask = await stack.enter_async_context(_connected(address))
        stack.push_async_callback(in_thread, _remove_helpers, setup)
        await in_thread(_remove_helpers, setup)
        await in_thread(setup.question.write_text, setup.token)
        stack.push_async_callback(_uninstall, dask, setup.plugin)
        reports = await _install(dask, address, setup)
        await in_thread(_require_answers, setup, reports)
        threads = sum(report.threads for report in reports.values())
        if threads < slots:
            notify(
                f"the cluster has {threads} threads for {slots} slots: a task occupies a thread until its video is "
                "saved (hint: dask worker --nthreads N)"
            )
        watcher = Watcher(client, journal)
        showing = asyncio.create_task(watcher.run(), name="modelslab_async watch")
        stack.callback(showing.cancel)
        run = secrets.token_hex(8)

        def make_maker(decider: Decider, stop: asyncio.Event) -> Maker:
            return ClusterMaker(decider, dask, setup, watcher, local_maker(decider, stop), stop, run)

        yield make_maker


def _require_this_host(address: str) -> None:
    parts = urlsplit(address)
    if parts.scheme != "inproc" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        requirement = "must have a journal that all hosts can use"
        raise refusal("cluster", address, requirement, "pass journal=postgresql://USER@HOST/DATABASE")


@asynccontextmanager
async def _connected(address: str) -> AsyncIterator[Any]:
    """Connect to a scheduler. Yield Dask's client, whose types do not know that it is asynchronous."""
    hint = "start one with dask scheduler, and pass its address, such as tcp://scheduler:8786"
    try:
        dask: Any = distributed.Client(address, asynchronous=True, timeout=_CONNECT_SECONDS, set_as_default=False)
        await dask
    except (OSError, ValueError, TimeoutError) as error:
        raise refusal("cluster", address, f"has no scheduler that answers: {error}", hint) from None
    try:
        yield dask
    finally:
        await dask.close(timeout=_CLOSE_SECONDS)


async def _install(dask: Any, address: str, setup: Setup) -> Mapping[str, Report]:
    """Open a client on each worker. Return what the workers say of themselves, by their addresses."""
    try:
        await dask.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError:
        raise refusal("cluster", address, "has no workers", f"start some with dask worker {address}") from None
    try:
        await dask.register_plugin(worker.WorkerClient(setup), name=setup.plugin)
        found = await dask.run(worker.report, setup.plugin)
    except ModelsLabError:
        raise
    except Exception as error:
        requirement = f"cannot run modelslab_async on its workers: {type(error).__name__}: {error}"
        raise refusal("cluster", address, requirement, "install the same version on each worker") from error
    return {each: report for each, report in found.items() if report}


async def _uninstall(dask: Any, plugin: str) -> None:
    """Close the clients of all workers. Without a scheduler, the workers end, and close their clients themselves."""
    if dask.status == "running":
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await dask.unregister_worker_plugin(plugin)


def _require_answers(setup: Setup, reports: Mapping[str, Report]) -> None:
    """Raise InvalidRequestError if the driver cannot read what a worker wrote into the folder."""
    for address, report in reports.items():
        found = None
        with suppress(OSError):
            found = report.answer.read_text()
        if found != setup.token:
            requirement = f"must be the same folder on all hosts: the files of the worker {address} are not in it"
            raise refusal("folder", str(setup.folder), requirement, "mount one folder at this path on each host")


def _remove_helpers(setup: Setup) -> None:
    """Remove the files that tested the folder, and the copies of pictures, of this run and of a run that died."""
    for path in setup.folder.glob(".cluster-*"):
        path.unlink(missing_ok=True)
    shutil.rmtree(setup.copies, ignore_errors=True)


class ClusterMaker:
    """Make items on the workers of a cluster."""

    def __init__(
        self,
        decider: Decider,
        dask: Any,
        setup: Setup,
        watcher: Watcher,
        local: LocalMaker,
        stop: asyncio.Event,
        run: str,
    ) -> None:
        self._client, self._dask, self._setup, self._watcher = decider.client, dask, setup, watcher
        self._local, self._stop, self._is_withdrawn = local, stop, False
        journal = hashlib.sha256(setup.journal.encode()).hexdigest()[:16]
        self._key = f"modelslab_async-{setup.account}-{journal}"
        self._run, self._tasks = run, 0
        self._copies_pictures = False
        """Whether a worker could not read a picture, so that all are copied to the folder."""

    async def make(self, entry: Entry, decision: Decision, observer: Observer) -> Made:
        """As in `Maker`."""
        if decision.action in (Action.KEEP, Action.LEAVE) or entry.request is None:
            return await self._local.make(entry, decision, observer)
        is_paid = decision.action is Action.COLLECT
        before = decision.record if is_paid else None
        if before and (found := await self._local.saved_before(entry, before, decision.result)):
            return Made(found)
        try:
            task = await self._task(entry, decision.ref, is_paid=is_paid)
        except InvalidRequestError as error:
            return Made(self._local.refused(entry, decision.ref, error))
        budget_key = f"{self._run}/{decision.ref}"
        budget = None if is_paid else self._client.budget
        if budget:
            budget.reserve(budget_key, self._client.prices.price_of(*call_of(entry.request)), time.time())
        job = self._watcher.watch(entry.request, decision.ref, lambda job: observer.begun(entry, job))
        try:
            outcome = await self._outcome(task)
        finally:
            await self._watcher.end(decision.ref)
        result = None if outcome.error else self._with_own_picture(entry, outcome.result)
        charged = result.charged if result else job.record.charged if job.record else False
        if budget and charged:
            budget.settle(budget_key, time.time())
        elif budget and charged is None:
            budget.hold(budget_key)
        elif budget:
            budget.release(budget_key)
        if outcome.error:
            raise outcome.error
        return Made(result, job if job.record else None)

    def _with_own_picture(self, entry: Entry, line: bytes | None) -> Result | None:
        """Return a worker's result, in which a picture that was copied has its own path again."""
        result = line and from_json(line)
        if not result:
            return None
        where = result.request.get("init_image")
        if entry.request and isinstance(where, str) and self._setup.copies in Path(where).parents:
            own: object = getattr(entry.request, "init_image", None)
            shown = str(Path(own).absolute()) if isinstance(own, Path) else f"sha256:{Path(where).parent.name}"
            return attrs.evolve(result, request={**result.request, "init_image": shown})
        return result

    # --- tasks ---

    async def _outcome(self, task: Task) -> Outcome:
        """Hand out a task until a worker has done it. Raises ConnectError if the scheduler is lost."""
        deaths = 0
        while True:
            try:
                outcome = await self._hand_out(task)
            except distributed.KilledWorker as error:
                deaths += 1
                if deaths > _MOST_DEATHS:
                    words = f"each worker that made {task.ref} died: {error}"
                    raise ConnectError(f"{words} (hint: see the workers' logs, and run the batch again)") from None
                outcome = Outcome(is_detached=True)
            if outcome.is_picture_missing and task.copy is None:
                self._copies_pictures = True
                task = await self._task(task.entry, task.ref, is_paid=task.is_paid)
            elif outcome.is_picture_missing:
                requirement = "cannot be read by a worker, nor can its copy in the batch's folder"
                raise refusal("init_image", task.copy, requirement, "mount one folder at this path on each host")
            elif not outcome.is_detached or self._stop.is_set():
                return outcome
            else:
                await asyncio.sleep(_PAUSE)

    async def _hand_out(self, task: Task) -> Outcome:
        self._tasks += 1
        key = f"{self._key}-{task.ref}-{self._run}-{self._tasks}"
        future = self._dask.submit(worker.make, self._setup.plugin, task, key=key, pure=False, retries=0)
        ending = asyncio.ensure_future(future.result())
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([ending, stopping], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await self._withdraw()
            outcome = await ending
        except distributed.KilledWorker:
            raise
        except FutureCancelledError as error:
            words = f"the scheduler of the cluster is lost: {error}"
            hint = "run the same batch again, which collects what is paid for"
            raise ConnectError(f"{words} (hint: {hint})") from None
        finally:
            stopping.cancel()
            ending.cancel()
        if not isinstance(outcome, Outcome):
            raise TypeError(f"a worker returned {type(outcome).__name__}")
        return outcome

    async def _withdraw(self) -> None:
        """Have all workers submit no more jobs."""
        if not self._is_withdrawn and self._dask.status == "running":
            self._is_withdrawn = True
            with suppress(Exception):  # the tasks of a worker that cannot be reached end by themselves
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._dask.run(worker.withdraw, self._setup.plugin, on_error="ignore")

    # --- pictures ---

    async def _task(self, entry: Entry, ref: str, *, is_paid: bool) -> Task:
        """Return the task of an item. Raises InvalidRequestError if its picture cannot be read."""
        request = entry.request
        assert request is not None  # noqa: S101 - the caller makes no other items
        if is_paid:
            return Task(entry=attrs.evolve(entry, request=inputs.without_bytes(request)), ref=ref, is_paid=True)
        media = inputs.examine(request, self._client.deployment)
        request = inputs.with_absolute_paths(request, media)
        image = media.picture
        if image is None or isinstance(image, inputs.Url):
            return Task(entry=attrs.evolve(entry, request=request), ref=ref, is_paid=False)
        data = await in_thread(inputs.load, image)
        assert not isinstance(data, str)  # noqa: S101 - it is no URL
        digest = hashlib.sha256(data).hexdigest()
        copy = None
        if isinstance(image, inputs.File):
            request = evolved(request, init_image=image.path.absolute())
        if self._copies_pictures or not isinstance(image, inputs.File):
            name = image.path.name if isinstance(image, inputs.File) else "picture"
            copy = self._setup.copies / digest / name
            await in_thread(_copy, data, copy)
            if not isinstance(image, inputs.File):  # the picture itself does not pass through Dask
                request = evolved(request, init_image=copy, base64=None)
        return Task(entry=attrs.evolve(entry, request=request), ref=ref, is_paid=False, digest=digest, copy=copy)


def _copy(data: bytes, target: Path) -> None:
    """Write a picture, unless it is there. Raises OSError."""
    if target.is_file() and target.stat().st_size == len(data):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{secrets.token_hex(4)}.part")
    part.write_bytes(data)
    part.replace(target)
