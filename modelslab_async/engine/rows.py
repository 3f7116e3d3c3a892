"""Read the rows of many jobs that other clients run, with few queries."""

import asyncio

from modelslab_async.engine.changes import CHECK_EVERY
from modelslab_async.engine.recovery import Recoverer
from modelslab_async.journal.base import Row

_LEAST_GAP = 0.1
"""Seconds from one read to the next. Each change of any job is noticed, and most of them concern other jobs."""
_FEW = 20
"""Rows up to which each is read by itself."""


class RowReader:
    """Read all rows that are asked for after each change of the journal."""

    def __init__(self, recoverer: Recoverer) -> None:
        self._recoverer = recoverer
        self._asked: dict[str, asyncio.Future[Row | None]] = {}
        """The rows that are waited for, by ref."""
        self._task: asyncio.Task[None] | None = None

    async def next(self, ref: str) -> Row | None:
        """Return the job's row after the next change of the journal, or after `CHECK_EVERY` seconds.

        Return None if there is no row. Raises JournalError. One task at a time asks for a row.
        """
        row: asyncio.Future[Row | None] = asyncio.get_running_loop().create_future()
        self._asked[ref] = row
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="modelslab_async rows")
        return await row

    async def close(self) -> None:
        """Read no more. No task may wait for a row."""
        if task := self._task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        changes = self._recoverer.recorder.changes
        assert changes is not None  # noqa: S101 - there is a journal
        seen = changes.count
        try:
            while self._asked:
                asked = self._asked
                try:
                    await changes.wait(seen, CHECK_EVERY)
                    seen, self._asked = changes.count, {}
                    await self._read(asked)
                except Exception as error:  # noqa: BLE001 - each caller raises it
                    if self._asked is asked:
                        self._asked = {}
                    for row in asked.values():
                        if not row.done():
                            row.set_exception(error)
                await asyncio.sleep(_LEAST_GAP)
        finally:
            self._task = None

    async def _read(self, asked: dict[str, asyncio.Future[Row | None]]) -> None:
        """Read few rows one by one. Read many with all unfinished jobs: those that are not among them have ended."""
        recoverer, found = self._recoverer, dict[str, Row]()
        if len(asked) > _FEW:  # the account may have ten thousand jobs that wait
            unfinished = await recoverer.journal.unfinished(recoverer.recorder.account, ready=False)
            found = {row.record.ref: row for row in unfinished}
        for ref, row in asked.items():
            if not row.done():
                now = found.get(ref) or await recoverer.find(ref)
                if not row.done():  # the caller may have been cancelled meanwhile
                    row.set_result(now)
