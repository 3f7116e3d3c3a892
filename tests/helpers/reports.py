"""Results for the tests of a batch's report, and the page that is written of them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from modelslab_async import JobState
from modelslab_async.batch import Result
from modelslab_async.batch.report import write_report
from modelslab_async.batch.results import to_json

BEGIN = datetime(2026, 11, 23, 10, tzinfo=UTC)
MARKUP = "<img src=x onerror=alert(1)></script><b>bold"


def at(seconds: float) -> datetime:
    """A time, in seconds after `BEGIN`."""
    return BEGIN + timedelta(seconds=seconds)


def a_result(line: int, state: JobState = JobState.READY, **changes: Any) -> Result:
    """A job that waited for 10 s and took 40 s. It has a video if it is ready, and an unknown end if uncertain."""
    is_made = state is JobState.READY
    defaults: dict[str, Any] = {
        "item": f"item-{line}",
        "ref": f"ref-{line}",
        "line": line,
        "state": state,
        "request": {"prompt": f"prompt {line}", "init_image": "/pictures/a.png"},
        "service": "https://modelslab.com",
        "price": Decimal("0.2"),
        "charged": {JobState.READY: True, JobState.REFUSED: False}.get(state),
        "file": f"video {line}.mp4" if is_made else None,
        "error": None if is_made else f"reason {line}",
        "seed": 1000 + line,
        "created_at": BEGIN,
        "submitted_at": at(10),
        "accepted_at": None if state is JobState.UNCERTAIN else at(10),
        "ended_at": None if state is JobState.UNCERTAIN else at(50),
    }
    return Result(**{**defaults, **changes})


def many_results(count: int, slots: int = 20) -> list[Result]:
    """So many ready jobs, of which *slots* run at once."""
    starts = ((line - 1) // slots * 50.0 for line in range(1, count + 1))
    return [
        a_result(line, submitted_at=at(start), accepted_at=at(start), ended_at=at(start + 40))
        for line, start in enumerate(starts, 1)
    ]


def written(folder: Path, results: list[Result], more: str = "") -> str:
    """The page of a folder with these results. *more* is added to `results.jsonl`."""
    folder.mkdir(exist_ok=True)
    lines = b"".join(to_json(result) + b"\n" for result in results)
    (folder / "results.jsonl").write_bytes(lines + more.encode())
    return write_report(folder).read_text(encoding="utf-8")


def words_of(page: str) -> str:
    """The page's text without its script and style."""
    return re.sub(r"\s+", " ", re.sub(r"<(style|script).*?</\1>|<[^>]+>", " ", page, flags=re.DOTALL))


def jobs_of(page: str) -> list[dict[str, Any]]:
    """The jobs that the page holds as JSON."""
    found = re.search(r'<script type="application/json" id="jobs">(.*?)</script>', page, flags=re.DOTALL)
    assert found
    jobs: list[dict[str, Any]] = json.loads(found[1])
    return jobs


def url_of(folder: Path) -> str:
    """The file:// URL of a folder's report."""
    return f"file://{quote(str(folder / 'report.html'))}"
