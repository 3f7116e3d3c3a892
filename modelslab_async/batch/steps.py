"""The decisions of a batch about one item, and the results of items. Pure: values in, values out."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import Enum, auto
from pathlib import Path
from typing import Any

from modelslab_async.batch.manifest import Entry
from modelslab_async.batch.results import Result
from modelslab_async.errors import (
    AuthenticationError,
    BudgetExceededError,
    InsufficientCreditsError,
    JournalError,
    ModelsLabError,
    ServerError,
    TransportError,
)
from modelslab_async.media.saved import SavedVideo
from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.operations import DEFAULT_OPERATION, OPERATIONS, inputs_of
from modelslab_async.protocol.problems import shown
from modelslab_async.protocol.record import JobRecord
from modelslab_async.protocol.secret import ApiKey

ENDS_THE_BATCH = (AuthenticationError, BudgetExceededError, InsufficientCreditsError, JournalError)
"""Errors of a job that the next jobs would meet too, and that do not pass with time."""


def is_transient(error: BaseException | None) -> bool:
    """Return whether a job's error is that of an outage: nothing was accepted, and the item may be submitted again.

    A lost reply to a submit is a SubmitUncertainError, and so never one of them.
    """
    return isinstance(error, TransportError | ServerError) and error.charged is False


class Action(Enum):
    """What to do with an item."""

    KEEP = auto()
    SUBMIT = auto()
    SUBMIT_ANEW = auto()
    """Submit under another ref: the earlier attempt is, or may be, paid for. Only if the user asked for it."""
    COLLECT = auto()
    LEAVE = auto()


def decide(known: Result | None, record: JobRecord | None, *, retry_failed: bool, resubmit_uncertain: bool) -> Action:
    """Return what to do with an item.

    known: the item's last result, or None.
    record: the journal row of the item's last attempt, or None.
    """
    is_of_row = known is not None and record is not None and known.ref == record.ref
    match record.state if record else None:
        case None | JobState.WAITING | JobState.CANCELLED | JobState.REFUSED:
            if known is None or (is_of_row and known.state is not JobState.REFUSED):  # the row is newer than the result
                return Action.SUBMIT
            has_failed = known.state in (JobState.FAILED, JobState.REFUSED)
            if not (retry_failed if has_failed else resubmit_uncertain):
                return Action.LEAVE
            return Action.SUBMIT_ANEW if record is None and known.charged is not False else Action.SUBMIT
        case JobState.SUBMITTING | JobState.UNCERTAIN:
            return Action.SUBMIT_ANEW if resubmit_uncertain else Action.LEAVE
        case JobState.FAILED:
            return Action.SUBMIT_ANEW if retry_failed else Action.LEAVE
        case JobState.TIMED_OUT if known is not None and is_of_row and known.charged is None and retry_failed:
            return Action.SUBMIT_ANEW  # the service no longer knows the job
        case JobState.PROCESSING | JobState.READY | JobState.TIMED_OUT:
            return Action.COLLECT


def ref_of(batch: str, entry: Entry, attempt: int) -> str:
    """Return the ref of an item's attempt, counted from 1.

    The first attempt of an item with a track_id has that as its ref. The refs of later attempts end in a digest: a
    track_id such as "a-2" is no attempt of "a".
    """
    track_id = entry.request.track_id if entry.request else None
    ref = track_id or f"{batch}-{entry.item}"
    return ref if attempt == 1 else f"{ref}-{attempt}-{hashlib.sha256(ref.encode()).hexdigest()[:8]}"


def refused(entry: Entry, error: ModelsLabError, *, service: str, ref: str, key: ApiKey) -> Result:
    """Return the result of an item that was not sent."""
    return Result(
        item=entry.item,
        ref=ref,
        line=entry.line,
        state=JobState.REFUSED,
        request=_shown_request(entry, key),
        service=service,
        operation=entry.request.operation if entry.request else DEFAULT_OPERATION,
        charged=False,
        error=str(error),
    )


def _shown_request(entry: Entry, key: ApiKey) -> Mapping[str, Any]:
    """Return prompt and files as a report shows them, without the key."""
    request = entry.request
    if request is None:
        return {}
    files = {each.name: key.cut(key.redact(shown(_file(value)))) for each, value in inputs_of(request)}
    return {**({} if request.prompt is None else {"prompt": str(request.prompt)}), **files}


def _file(value: object) -> object:
    """Return a path as text, because a report shows file names and not Python objects."""
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def result_of(
    entry: Entry,
    record: JobRecord,
    *,
    service: str,
    now: datetime,
    host: str | None = None,
    saved: tuple[str, SavedVideo] | None = None,
    mtime_ns: int | None = None,
    error: BaseException | None = None,
) -> Result:
    """Return the result of an item whose job ended.

    saved: the file's name in the folder, and its facts; None if no video was saved.
    mtime_ns: when that file was modified, see `Result`.
    now: the time at which the file was saved.
    """
    name, file = saved or (None, None)
    request = {name: value for name, value in (record.request or {}).items() if name not in ("track_id", "operation")}
    if (operation := OPERATIONS.get(record.operation)) and operation.inline_input:
        picture = record.picture or {}
        request["init_image"] = picture.get("where") or f"sha256:{picture.get('sha256', 'unknown')}"
    return Result(
        item=entry.item,
        ref=record.ref,
        line=entry.line,
        state=record.state,
        request=request,
        service=service,
        host=host,
        operation=record.operation,
        price=record.usd,
        charged=error.charged if isinstance(error, ModelsLabError) else record.charged,
        job_id=record.job_id,
        seed=(record.video or {}).get("seed"),
        file=name,
        **({} if file is None else _facts(file)),
        mtime_ns=mtime_ns,
        created_at=_at(record.created_at),
        submitted_at=_at(record.submitted_at),
        accepted_at=_at(record.accepted_at),
        ended_at=_at(record.ended_at),
        saved_at=now if file else None,
        error=str(error) if error else record.error,
    )


def _facts(file: SavedVideo) -> dict[str, Any]:
    names = ("sha256", "size_bytes", "width", "height", "frames", "fps", "duration")
    return {name: getattr(file, name) for name in names}


def _at(seconds: float | None) -> datetime | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


def inside(folder: Path, path: str | None) -> str | None:
    """Return a path as a name relative to the folder, or None if it is not in the folder."""
    if path is None:
        return None
    try:
        return Path(path).relative_to(folder.absolute()).as_posix()
    except ValueError:
        return None
