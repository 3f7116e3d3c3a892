"""Each fault of the emulator once, with what the user sees: never a second charge, always a word on the first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.world import World, a_request

from modelslab_async import (
    InvalidVideoError,
    JobFailedError,
    JobState,
    JobTimeoutError,
    MalformedReplyError,
    ModelsLabError,
    ReplyLostError,
    ServerError,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]

PASSING = [
    Rule(Fault.REFUSED, times=1, seconds=5.0),
    Rule(Fault.UNAVAILABLE_503, times=2),
    Rule(Fault.RATE_LIMIT, times=2),
    Rule(Fault.SLOW, times=1, seconds=60.0),
    Rule(Fault.EARLY_LINK, seconds=10.0),
    Rule(Fault.LATE_LINK, seconds=40.0),
    Rule(Fault.EMPTY_OUTPUT, times=3),
    Rule(Fault.TRY_AGAIN, times=3),
    *[
        Rule(fault, on="fetch", times=3, seconds=5.0)
        for fault in (
            Fault.REFUSED,
            Fault.RESET_BEFORE,
            Fault.RESET_AFTER,
            Fault.SLOW,
            Fault.STALL,
            Fault.HTML_502,
            Fault.HTML_520,
            Fault.HTML_524,
            Fault.TRUNCATED_JSON,
            Fault.RATE_LIMIT,
            Fault.ERROR_500,
            Fault.UNAVAILABLE_503,
        )
    ],
    Rule(Fault.WRONG_TYPE, rate=1.0),
    Rule(Fault.HTML_AS_MP4, times=2),
    Rule(Fault.BROKEN_DOWNLOAD, times=2),
    Rule(Fault.CUT_MP4, times=1),
]


@pytest.mark.parametrize("profile", ["documented", "legacy"])
@pytest.mark.parametrize("rule", PASSING, ids=lambda rule: f"{rule.fault.name}-{rule.occasion}")
async def test_what_passes_is_waited_out(world: MakeWorld, tmp_path: Path, rule: Rule, profile: str) -> None:
    """What surely was not taken is sent again, and a look that fails is only a look: one video, one charge."""
    here = world(faults=[rule], profile=profile)
    async with here.client() as client:
        job = client.submit(a_request())
        saved = await job.save(tmp_path / "video.mp4")
    assert job.state is JobState.READY
    assert here.service.ledger.track_ids() == [job.ref]
    assert saved.path.stat().st_size == saved.size_bytes > 0


LOST = {
    Fault.RESET_BEFORE: ReplyLostError,
    Fault.RESET_AFTER: ReplyLostError,
    Fault.STALL: ReplyLostError,
    Fault.HTML_502: MalformedReplyError,
    Fault.HTML_520: MalformedReplyError,
    Fault.HTML_524: MalformedReplyError,
    Fault.TRUNCATED_JSON: MalformedReplyError,
    Fault.ERROR_500: ServerError,
}


@pytest.mark.parametrize(("fault", "cause"), LOST.items(), ids=lambda value: getattr(value, "name", ""))
async def test_a_lost_reply_is_uncertain_and_never_sent_again(
    world: MakeWorld, fault: Fault, cause: type[ModelsLabError]
) -> None:
    """After a lost or unreadable reply the job is UNCERTAIN, taken or not: one POST, at most one charge."""
    here = world(faults=[Rule(fault)])
    async with here.client() as client:
        job = client.submit(a_request())
        with pytest.raises(SubmitUncertainError) as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.ref) == (JobState.UNCERTAIN, None, job.ref)
    assert isinstance(caught.value.__cause__, cause)
    assert "may have been charged" in str(caught.value)
    assert here.count("img2video_ultra") == 1
    assert len(here.service.ledger.charges) <= 1


@pytest.mark.parametrize("rule", [Rule(Fault.REFUSED, seconds=600.0), Rule(Fault.UNAVAILABLE_503)])
async def test_what_does_not_pass_is_refused_and_not_charged(world: MakeWorld, rule: Rule) -> None:
    """An outage that outlasts the patience ends the job as REFUSED, surely not charged."""
    here = world(faults=[rule])
    async with here.client() as client:
        job = client.submit(a_request())
        with pytest.raises(ModelsLabError) as caught:
            await job
    assert (job.state, caught.value.charged, here.service.ledger.charges) == (JobState.REFUSED, False, [])


@pytest.mark.parametrize("profile", ["documented", "legacy"])
async def test_a_job_that_fails_is_told_with_its_reason(world: MakeWorld, profile: str) -> None:
    """Accepted and then failed: the service's words, and that the charge is not known."""
    async with world(faults=[Rule(Fault.JOB_FAILS)], profile=profile).client() as client:
        job = client.submit(a_request())
        with pytest.raises(JobFailedError, match="Something went wrong") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.FAILED, None, job.id)


async def test_try_again_under_failed_is_bounded(world: MakeWorld) -> None:
    """Status failed with the words to try again is not believed at once, and not for ever."""
    async with world(faults=[Rule(Fault.TRY_AGAIN)]).client() as client:
        with pytest.raises(JobFailedError, match="Try Again"):
            await client.submit(a_request())


async def test_success_without_a_link_gives_the_announced_file(world: MakeWorld) -> None:
    """If the output stays empty, the video at the link that the acceptance announced is found all the same."""
    here = world(faults=[Rule(Fault.EMPTY_OUTPUT)])
    async with here.client() as client:
        video = await client.submit(a_request())
    assert video.url == next(iter(here.service.jobs.values())).link(here.service.origin)


async def test_success_without_a_link_ends(world: MakeWorld) -> None:
    """The error tells what the service says, the slot is free, and the job can be attached to when there is a link."""
    rules = [Rule(Fault.EMPTY_OUTPUT), Rule(Fault.LATE_LINK, seconds=200.0)]
    here = world(faults=rules)
    async with here.client(max_in_flight=1, timeouts=Timeouts(link=30.0)) as client:
        job, following = client.submit(a_request()), client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="reports success, but its output holds no link") as caught:
            await job
        assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.TIMED_OUT, True, job.id)
        await following.submitted()
        await asyncio.sleep(300)
        rules.clear()
        assert (await client.attach(job.id or "")).id == job.id


@pytest.mark.parametrize("rule", [Rule(Fault.LATE_LINK, seconds=300.0), Rule(Fault.HTML_AS_MP4)])
async def test_a_file_that_never_comes_is_no_video(world: MakeWorld, rule: Rule) -> None:
    """Success without a readable file: charged, with id and link to collect it later; no 404 page becomes an mp4."""
    here = world(faults=[rule])
    async with here.client() as client:
        job = client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="generations") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.READY, True, job.id)


async def test_a_file_that_stays_cut_is_never_saved(world: MakeWorld, tmp_path: Path) -> None:
    """Half an mp4 is told as cut short, and nothing is left at the path or beside it."""
    async with world(faults=[Rule(Fault.CUT_MP4)]).client() as client:
        job = client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="cut short"):
            await job.save(tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


async def test_a_timeout_tells_what_the_last_look_said(world: MakeWorld) -> None:
    """Who gave up because every look failed is told why they failed."""
    async with world(faults=[Rule(Fault.HTML_520, on="fetch")]).client(timeouts=Timeouts(job=60.0)) as client:
        with pytest.raises(JobTimeoutError, match="gateway error"):
            await client.submit(a_request())


async def test_a_wake_up_of_a_finished_job_is_no_storm(world: MakeWorld) -> None:
    """A second webhook, while the file is looked for, costs one look."""
    here = world(faults=[Rule(Fault.LATE_LINK, seconds=40.0)])
    async with here.client() as client:
        job = client.submit(a_request())
        async for change in job.events():
            if change.state is JobState.READY:
                job.wake()
        await job
    assert here.count("generations") <= 20


async def test_strategies(world: MakeWorld) -> None:
    """Links reads the announced link and asks seldom; poll asks only, and takes the service's word."""
    for strategy in ("links", "poll", "auto"):
        here = world()
        async with here.client(wait=strategy) as client:
            video = await client.submit(a_request())
        probes = here.count("generations")
        assert video.url in video.links
        assert probes == 0 if strategy == "poll" else probes >= 1
        assert here.count("fetch") <= (probes if strategy == "links" else 60)


async def test_a_refusal_while_watching_ends_the_watch_and_is_recoverable(world: MakeWorld) -> None:
    """A key that is withdrawn while the job runs: told at once, as charged, and the job can be attached to."""
    keys = ["secret-key-that-nobody-may-see"]
    here = world(keys=keys)
    async with here.client(timeouts=Timeouts(job=600)) as client:
        job = client.submit(a_request())
        await job.submitted()
        keys.clear()
        with pytest.raises(ModelsLabError, match="API Key") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.TIMED_OUT, True, job.id)
