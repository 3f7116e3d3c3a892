"""The report of a batch as a file: what its page says, and that no text of a job becomes markup."""

from __future__ import annotations

import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers.reports import BEGIN, MARKUP, a_result, at, jobs_of, many_results, words_of, written
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import InvalidRequestError, JobState
from modelslab_async.batch.report import embed_json, write_report
from modelslab_async.batch.report_data import resolve_steps

S = JobState
HERE = ("http://127.0.0.1:8787", "http://[::1]:1", "http://localhost:1")


def test_the_totals(tmp_path: Path) -> None:
    """They count videos, money and median times; if an item has two lines, the last one counts."""
    results = [a_result(1, S.UNCERTAIN), a_result(1), a_result(2), a_result(3, S.FAILED), a_result(4, S.REFUSED)]
    words = words_of(written(tmp_path, results, more='{"item": "half a li'))
    assert "2 of 4 videos" in words
    assert "$0.40 spent" in words
    assert "$0.20 may have been spent" in words
    assert "10 s waiting for a slot" in words
    assert "40 s processing" in words
    assert "2026-11-23 10:00 UTC, 50 s" in words
    assert "reason 3" in words
    assert "None" not in words


def test_the_title_names_batch_and_time(tmp_path: Path) -> None:
    """The window's title is the folder's name and the time at which the batch began."""
    page = written(tmp_path / "castles & moats", [a_result(1)])
    assert "<title>Batch castles &amp; moats, 2026-11-23 10:00 UTC</title>" in page
    assert "<h1>Batch castles &amp; moats</h1>" in page


@pytest.mark.parametrize(("service", "is_marked"), [*((url, True) for url in HERE), ("https://modelslab.com", False)])
def test_the_work_of_an_emulator_is_marked(tmp_path: Path, service: str, is_marked: bool) -> None:
    """A notice says that its videos are not those of the service."""
    assert ("not ModelsLab" in words_of(written(tmp_path, [a_result(1, service=service)]))) is is_marked


def test_the_details_of_a_job(tmp_path: Path) -> None:
    """Each detail has its name; a detail that is unknown is left out."""
    facts: dict[str, Any] = {"width": 1024, "height": 576, "frames": 81, "fps": 16.0, "job_id": "88"}
    [first, second] = jobs_of(written(tmp_path, [a_result(1, **facts), a_result(2, S.UNCERTAIN, seed=None)]))
    assert first["details"] == {
        "Operation": "img2video_ultra",
        "Cost": "$0.20",
        "Waited": "10 s",
        "Processed": "40 s",
        "Video": "1024×576, 81 frames, 16 fps",
        "Seed": "1001",
        "Picture": "a.png",
        "File": "video 1.mp4",
        "Line": "1",
        "Ref": "ref-1",
        "Id": "88",
    }
    assert second["details"] == {
        "Operation": "img2video_ultra",
        "Cost": "unknown, $0.20 at most",
        "Waited": "10 s",
        "Picture": "a.png",
        "Line": "2",
        "Ref": "ref-2",
    }


def test_only_an_uncertain_job_says_how_to_resolve_it(tmp_path: Path) -> None:
    """The page holds the command and the library call for each of the two outcomes."""
    results = [a_result(line, state) for line, state in enumerate(S, 1)]
    jobs = jobs_of(written(tmp_path, results))
    [steps] = [job["resolve"] for job in jobs if "resolve" in job]
    ref = f"ref-{[*S].index(S.UNCERTAIN) + 1}"
    assert steps == {
        "acceptedCommand": f"modelslab-async resolve {ref} --id ID",
        "acceptedCall": f"await client.resolve('{ref}', id='ID')",
        "lostCommand": f"modelslab-async resolve {ref} --lost",
        "lostCall": f"await client.resolve('{ref}', lost=True)",
    }


@given(st.text(min_size=1))
def test_a_ref_is_quoted_for_shell_and_python(ref: str) -> None:
    """Whatever a ref holds, the command has it as one word, and the call as one string."""
    steps = resolve_steps(ref)
    assert shlex.split(steps["lostCommand"]) == ["modelslab-async", "resolve", ref, "--lost"]
    assert steps["lostCall"] == f"await client.resolve({ref!r}, lost=True)"


class Structure(HTMLParser):
    """The tags of a page and their attributes' names, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}", ()))


def test_markup_in_values_stays_text(tmp_path: Path) -> None:
    """A prompt, an error, and the names of files and the folder cannot add markup to the page."""
    result = a_result(1, request={"prompt": MARKUP}, error=MARKUP, file=f"{MARKUP.replace('/', '')}.mp4")
    page = written(tmp_path / "<b>folder", [result])
    assert "<img" not in page
    assert "<b>bold" not in page
    assert "<b>folder" not in page
    assert page.count("</script>") == page.count("<script") == 2


@pytest.mark.parametrize("text", [MARKUP, "</SCRIPT\t><script>", "<!--<script>", "-->]]>", "\"'>&lt;", "</noscript>"])
def test_no_text_of_a_job_changes_the_page(tmp_path: Path, text: str) -> None:
    """A page has the same tags and attributes, whatever the texts of its jobs are, and holds these texts whole."""

    def page(folder: str, value: str) -> str:
        request = {"prompt": value, "init_image": value}
        job = a_result(1, S.UNCERTAIN, request=request, error=value, ref=value, item=value, job_id=value)
        video = a_result(2, request=request, file=f"{value.replace('/', '_')}.mp4")
        return written(tmp_path / folder, [job, video])

    harmful = page("harmful", text)
    assert Structure(harmful).tags == Structure(page("plain", "plain")).tags
    [job, _] = jobs_of(harmful)
    assert (job["prompt"], job["error"], job["details"]["Ref"]) == (text, text, text)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_embedded_json_is_no_markup(value: object) -> None:
    """JSON in the page has no character with which HTML begins or ends markup."""
    assert not set("<>&") & set(embed_json(value))


def test_text_that_utf_8_cannot_write(tmp_path: Path) -> None:
    """A lone surrogate in a prompt is replaced, and the page is written."""
    folder = tmp_path / "out"
    line = (
        '{"item":"a","ref":"a","line":1,"state":"ready","request":{"prompt":"a \\ud83d b"},"service":"","charged":true}'
    )
    [job] = jobs_of(written(folder, [], more=f"{line}\n"))
    assert job["prompt"] == "a ? b"


def test_without_javascript_the_page_lists_jobs_without_a_video(tmp_path: Path) -> None:
    """The list has a hundred jobs at most, and says how many there are."""
    page = written(tmp_path, [a_result(line, S.UNCERTAIN) for line in range(1, 151)])
    [plain] = re.findall(r"<noscript>(.*?)</noscript>", page, flags=re.DOTALL)
    words = words_of(plain)
    assert "Line 100, uncertain" in words
    assert "Line 101" not in words
    assert "The first 100 of 150 are listed." in words
    assert "modelslab-async resolve REF --lost" in words


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    """The error names the problem, and nothing is written."""
    with pytest.raises(InvalidRequestError, match="results"):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_page_may_lie_elsewhere(tmp_path: Path) -> None:
    """It names the videos relative to its own folder, and leaves no other file there."""
    written(tmp_path / "out", [a_result(1)])
    page = write_report(tmp_path / "out", to=tmp_path / "pages" / "one.html")
    [job] = jobs_of(page.read_text(encoding="utf-8"))
    assert job["src"] == "../out/video%201.mp4"
    assert list(page.parent.iterdir()) == [page]


def test_the_page_needs_no_other_file(tmp_path: Path) -> None:
    """Style and script are in the page, and no URL is fetched."""
    page = written(tmp_path, [a_result(1)])
    assert "<link" not in page
    assert "@import" not in page
    assert not re.search(r"\b(src|href)\s*=\s*[\"']", page)


def test_ten_thousand_jobs_fit_a_page(tmp_path: Path) -> None:
    """The page of ten thousand jobs in 200 slots has less than 15 MB."""
    assert len(written(tmp_path, many_results(10_000, slots=200))) < 15_000_000


def test_a_batch_that_sent_nothing(tmp_path: Path) -> None:
    """Its page says so instead of a timeline."""
    never = dict.fromkeys(("created_at", "submitted_at", "accepted_at", "ended_at"))
    page = written(tmp_path, [a_result(1, S.REFUSED, **never)])
    assert "No job was sent." in words_of(page)
    assert f"<title>Batch {tmp_path.name}</title>" in page


def test_durations_are_rounded_to_what_is_shown(tmp_path: Path) -> None:
    """10 s are never shown as "10.0 s"."""
    [job] = jobs_of(written(tmp_path, [a_result(1, created_at=BEGIN, submitted_at=at(9.97))]))
    assert job["details"]["Waited"] == "10 s"
