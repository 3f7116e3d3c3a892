"""The command makes videos by every operation: inputs, parameters, prices and manifests."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from helpers.command import charges, emulated_aside

from modelslab_async import OPERATIONS
from modelslab_async.batch import read_results
from modelslab_async.cli.exit_codes import Exit
from modelslab_async.emulator import skeleton
from modelslab_async.emulator.job import Work

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and pseudo-terminals")
CLIP = skeleton(Work(picture=b"", prompt="p", seed=1, width=2, height=2, frames=1, fps=1))
SOUND = "https://files.invalid/a.mp3"


def test_a_prompt_becomes_a_video(tmp_path: Path) -> None:
    """Without a picture, the video is named after its operation."""
    words = ("generate", "--operation", "text2video_ultra", "-p", "a castle", "--seed", "7", "--fps", "12")
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run(*words)
        (job,) = emulator.service.jobs.values()
    assert (done.code, done.err.splitlines()[0]) == (0, "$0.20 for one video")
    assert done.out.startswith("text2video_ultra-7.mp4  ")
    assert (job.params["fps"], job.params["prompt"]) == (12, "a castle")


def test_files_and_parameters_of_an_operation(tmp_path: Path) -> None:
    """Each input has an option. `--extra` takes what has no option, whether the operation documents it or not."""
    (tmp_path / "clip.mp4").write_bytes(CLIP)
    lip_sync = ("generate", "--operation", "lip-sync", "--model-id", "lipsync-2", "--init-audio", SOUND)
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run(*lip_sync, "--init-video", "clip.mp4", "--extra", "width=640", "--extra", "style=1")
        again = shell.run(*lip_sync, "--init-video", "clip.mp4", "--json")
        shown = shell.run("show", json.loads(again.out)["ref"])
        (job, other) = emulator.service.jobs.values()
    assert (done.code, again.code) == (0, 0)
    assert done.err.splitlines()[0] == "an unknown price for one video"
    assert done.out.startswith("clip-")
    assert (job.params["model_id"], job.params["width"], job.params["style"]) == ("lipsync-2", 640, 1)
    assert json.loads(again.out)["cost"] is None
    assert other.id != job.id
    assert "price                    unknown\n" in shown.out
    assert "operation                lip-sync\n" in shown.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--operation", "img2vid", "-p", "a"], "unknown operation"),
        (["--operation", "text-to-video", "-p", "a"], "model_id: is required"),
        (["--operation", "text2video_ultra"], "prompt: is required"),
        (["--operation", "text2video_ultra", "a.png", "-p", "a"], "init_image: unknown parameter"),
        (["a.png", "--init-image", "a.png", "-p", "a"], "pass the picture once"),
        (["-p", "a"], "init_image: is required"),
    ],
)
def test_mistakes(tmp_path: Path, words: list[str], message: str) -> None:
    """Each mistake is named, and nothing is sent."""
    with emulated_aside(tmp_path) as (shell, emulator):
        done = shell.run("generate", *words)
    assert (done.code, charges(emulator)) == (Exit.USAGE, 0)
    assert message in done.err


def test_a_request_is_not_paid_for_twice(tmp_path: Path) -> None:
    """A request of the same operation, which an earlier run paid for and did not save, is refused."""
    words = ("generate", "--operation", "text2video_ultra", "-p", "a castle")
    with emulated_aside(tmp_path) as (shell, emulator):
        assert shell.run(*words, "--no-wait").code == 0
        refused = shell.run(*words)
        other = shell.run("generate", "--operation", "text-to-video", "--model-id", "m", "-p", "a castle")
    assert (refused.code, other.code, charges(emulator)) == (Exit.USAGE, 0, 2)
    assert "an earlier run paid" in refused.err


def test_help_lists_the_operations(tmp_path: Path) -> None:
    """Each operation has a line with its price and how sure its parameters are."""
    with emulated_aside(tmp_path) as (shell, _):
        text = shell.run("generate", "--help").out
    for row in OPERATIONS.values():
        price = "unknown" if row.price is None else f"${row.price:.2f}"
        assert f"  {row.name:16} {price:8} {row.confidence}\n" in text


def test_a_manifest_mixes_operations(tmp_path: Path) -> None:
    """A line or a row names its operation; paths start at the manifest's folder. Unknown prices are counted apart."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "clip.mp4").write_bytes(CLIP)
    lines = [
        {"prompt": "a", "init_image": "../a.png"},
        {"operation": "text2video_ultra", "prompt": "b"},
        {"operation": "lip-sync", "model_id": "lipsync-2", "init_video": ["clip.mp4"], "init_audio": SOUND},
    ]
    (tmp_path / "in" / "shots.jsonl").write_text("\n".join(map(json.dumps, lines)))
    table = "operation,prompt,model_id,duration\ntext-to-video,a,seedance-t2v,5\ntext2video_ultra,b,,\n"
    (tmp_path / "in" / "shots.csv").write_text(table)
    with emulated_aside(tmp_path) as (shell, emulator):
        cost = shell.run("cost", "in/shots.jsonl")
        refused = shell.run("batch", "in/shots.jsonl", "-o", "out", "--yes", "--budget", "5")
        made = shell.run("batch", "in/shots.jsonl", "-o", "out", "--yes", "--report")
        tabled = shell.run("batch", "in/shots.csv", "-o", "more", "--yes")
        names = [job.operation.name for job in emulator.service.jobs.values()]
    assert cost.out.startswith("3 videos: $0.40 and 1 video with an unknown price")
    assert refused.code != 0
    assert "line 3: prices=unknown" in refused.err
    assert (made.code, tabled.code) == (0, 0)
    assert sorted(names) == ["img2video_ultra", "lip-sync", "text-to-video", *["text2video_ultra"] * 2]
    results = {result.operation: result for result in read_results(tmp_path / "out")}
    assert results["lip-sync"].price is None
    assert results["lip-sync"].request["init_video"] == [str(tmp_path / "in" / "clip.mp4")]
    report = (tmp_path / "out" / "report.html").read_text()
    assert "with an unknown price" in report
