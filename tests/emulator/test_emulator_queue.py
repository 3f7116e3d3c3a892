"""Slots, workers and times of the emulated service's jobs."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from decimal import Decimal
from statistics import median
from typing import Any

import pytest
from helpers.emulated_service import KEY, NOT_FOUND, OTHER_KEY, a_work, emulated_service, json_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelslab_async.emulator.job import EtaKind, processing_seconds
from modelslab_async.emulator.ledger import account_fingerprint

_SUBMITS = st.lists(
    st.tuples(
        st.floats(0, 60),
        st.sampled_from([KEY, OTHER_KEY]),
        st.sampled_from([8, 40, 81, 200]),
        st.sampled_from([64, 240, 480]),
    ),
    max_size=60,
)


@given(_SUBMITS, st.integers(1, 6), st.integers(1, 8) | st.none())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_slots_and_workers(submits: list[tuple[float, str, int, int]], limit: int, workers: int | None) -> None:
    """An account never has more unfinished jobs than slots, and is refused only then. Jobs start first in, first out.

    A free worker starts the next job at once. Every accepted submit, and no other, costs $0.20.
    """
    emulated = emulated_service(queue_limit=limit, workers=workers)
    now, accepted = 0.0, 0
    for gap, key, frames, lines in submits:
        now += gap
        mine = [job for job in emulated.service.jobs.values() if job.account == account_fingerprint(key)]
        unfinished_before = sum(job.done_at > now for job in mine)
        answer = emulated.submit(now, key=key, num_frames=frames, resolution=lines)
        accepted += answer.status == 200
        assert (answer.status == 200) == (unfinished_before < limit)
        assert len(emulated.service.unfinished_jobs(key, now)) == min(unfinished_before + 1, limit)
    assert emulated.service.queue.peak_slots_used <= limit
    assert emulated.charged == accepted * Decimal("0.20")
    for key in (KEY, OTHER_KEY):
        mine = [job for job in emulated.service.jobs.values() if job.account == account_fingerprint(key)]
        assert [job.starts_at for job in mine] == sorted(job.starts_at for job in mine)
        for job in mine:
            in_process = [other for other in mine if other.starts_at <= job.starts_at < other.done_at]
            assert len(in_process) <= (workers or limit)
            assert job.starts_at == job.accepted_at or job.starts_at in {other.done_at for other in mine}


@pytest.mark.parametrize("speed", [1.0, 10.0])
@pytest.mark.parametrize("limit", [5, 10, 15])
def test_a_refusal_without_a_free_slot_names_the_limit(limit: int, speed: float) -> None:
    """The 429 names the number of slots, and its body asks to retry after 30 s, divided by speed."""
    emulated = emulated_service(queue_limit=limit, speed=speed)
    answers = [emulated.submit() for _ in range(limit + 1)]
    assert [answer.status for answer in answers] == [200] * limit + [429]
    message = f"Rate limit exceeded. Maximum {limit} queued requests allowed."
    assert json_of(answers[-1]) == {"status": "error", "message": message, "retry_after": 30 / speed}


@given(st.integers(1, 500), st.integers(1, 100), st.integers(1, 60), st.integers(0, 2**32))
def test_processing_time_is_proportional_to_the_work(frames: int, sixteenths: int, steps: int, seed: int) -> None:
    """The processing time grows with frames × pixels × steps."""
    work = a_work(frames=frames, width=16 * sixteenths)
    seconds = processing_seconds(work, steps, random.Random(seed))
    one = processing_seconds(a_work(frames=1, width=16), 1, random.Random(seed))
    assert seconds == pytest.approx(one * frames * sixteenths * steps)


def test_the_usual_job_takes_as_long_as_measured() -> None:
    """480p, 81 frames, 20 steps: the median is within the measured 34 to 44 s, and no two durations are equal."""
    seconds = [processing_seconds(a_work(), 20, random.Random(seed)) for seed in range(400)]
    assert 34 <= median(seconds) <= 44
    assert len(set(seconds)) == len(seconds)


def test_speed_divides_all_times() -> None:
    """At ten times the speed, each instant of each job is a tenth."""
    slow, fast = emulated_service(speed=1.0, workers=2), emulated_service(speed=10.0, workers=2)
    for emulated in (slow, fast):
        for _ in range(5):
            emulated.submit()
    for one, other in zip(slow.service.jobs.values(), fast.service.jobs.values(), strict=True):
        times = [(job.starts_at, job.done_at, job.file_at) for job in (one, other)]
        assert times[1] == pytest.approx([time / 10 for time in times[0]])


_ETAS: Mapping[EtaKind, Callable[[Any, float], bool]] = {
    "good": lambda eta, seconds: isinstance(eta, int) and seconds / 2 < eta < seconds * 2,
    "float": lambda eta, seconds: isinstance(eta, float) and seconds / 2 < eta < seconds * 2,
    "absent": lambda eta, _: eta == "absent",
    "zero": lambda eta, _: eta == 0,
    "ten times": lambda eta, seconds: isinstance(eta, int) and abs(eta - 10 * seconds) <= 0.5,
    "a tenth": lambda eta, seconds: isinstance(eta, int) and abs(eta - seconds / 10) <= 0.5,
}


@pytest.mark.parametrize("kind", _ETAS)
def test_kinds_of_eta(kind: EtaKind) -> None:
    """An eta may be good, absent, 0, or wrong by an order of magnitude. It includes the wait in the queue."""
    emulated = emulated_service(eta={kind: 1}, workers=1)
    for _ in range(5):
        reply = json_of(emulated.submit(7.0))
        seconds = emulated.service.jobs[reply["id"]].done_at - 7.0
        assert _ETAS[kind](reply.get("eta", "absent"), seconds)


def test_a_job_is_unfinished_until_its_video_is_rendered() -> None:
    """A job whose video is being rendered is processing and holds its slot. Then it fails, or its file appears."""
    emulated = emulated_service(queue_limit=1)
    for failure in ("", "a full disk"):
        job = emulated.service.jobs[json_of(emulated.submit(1000.0 * len(emulated.service.jobs)))["id"]]
        emulated.service.queue.start_rendering(job)
        late = job.file_at + 100
        assert emulated.fetch(job.id, late)["status"] == "processing"
        assert (emulated.submit(late).status, len(emulated.service.unfinished_jobs(KEY, late))) == (429, 1)
        assert emulated.service.file(late, job.file_name).status in (403, 404)
        emulated.service.queue.finish_rendering(job, late, failure)
        assert (job.done_at, emulated.service.unfinished_jobs(KEY, late)) == (late, [])
        assert emulated.fetch(job.id, late)["status"] == ("failed" if failure else "success")
        assert emulated.service.file(job.file_at, job.file_name).status == (404 if failure else 200)


def test_rendering_in_time_changes_no_times() -> None:
    """If a video is rendered before its job is due, the job still ends when it is due."""
    emulated = emulated_service()
    job = emulated.service.jobs[json_of(emulated.submit())["id"]]
    before = (job.done_at, job.file_at)
    emulated.service.queue.start_rendering(job)
    emulated.service.queue.finish_rendering(job, job.done_at / 2, "")
    assert (job.done_at, job.file_at) == before


def test_forgotten_jobs_are_not_found() -> None:
    """A forgotten job is not found and holds no slot. Its id is not used again, and its charge stays."""
    emulated = emulated_service(queue_limit=1)
    forgotten = json_of(emulated.submit())["id"]
    emulated.service.forget_jobs()
    assert emulated.fetch(forgotten) == NOT_FOUND
    assert json_of(emulated.submit())["id"] == forgotten + 1
    assert emulated.charged == Decimal("0.40")
