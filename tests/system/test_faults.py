"""Each fault of the emulator, as users see it: no job is charged twice, and each error says what was charged."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from helpers.world import KEY, MakeWorld, a_request

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

PASSING_FAULTS = [
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
@pytest.mark.parametrize("rule", PASSING_FAULTS, ids=lambda rule: f"{rule.fault.name}-{rule.occasion}")
async def test_a_fault_that_passes_is_waited_out(
    make_world: MakeWorld, tmp_path: Path, rule: Rule, profile: str
) -> None:
    """A submit that was certainly not accepted is repeated, and a failed poll is repeated: one video, one charge."""
    world = make_world(faults=[rule], profile=profile)
    async with world.client() as client:
        job = client.submit(a_request())
        saved = await job.save(tmp_path / "video.mp4")
    assert job.state is JobState.READY
    assert world.service.ledger.track_ids() == [job.ref]
    assert saved.path.stat().st_size == saved.size_bytes > 0


CAUSES = {
    Fault.RESET_BEFORE: ReplyLostError,
    Fault.RESET_AFTER: ReplyLostError,
    Fault.STALL: ReplyLostError,
    Fault.HTML_502: MalformedReplyError,
    Fault.HTML_520: MalformedReplyError,
    Fault.HTML_524: MalformedReplyError,
    Fault.TRUNCATED_JSON: MalformedReplyError,
    Fault.ERROR_500: ServerError,
}


@pytest.mark.parametrize(("fault", "cause"), CAUSES.items(), ids=lambda value: getattr(value, "name", ""))
async def test_a_lost_reply_is_uncertain_and_never_sent_again(
    make_world: MakeWorld, fault: Fault, cause: type[ModelsLabError]
) -> None:
    """After a lost or unreadable reply the job is UNCERTAIN, accepted or not: one POST, at most one charge."""
    world = make_world(faults=[Rule(fault)])
    async with world.client() as client:
        job = client.submit(a_request())
        with pytest.raises(SubmitUncertainError) as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.ref) == (JobState.UNCERTAIN, None, job.ref)
    assert isinstance(caught.value.__cause__, cause)
    assert "may have been charged" in str(caught.value)
    assert world.count("img2video_ultra") == 1
    assert len(world.service.ledger.charges) <= 1


@pytest.mark.parametrize("rule", [Rule(Fault.REFUSED, seconds=600.0), Rule(Fault.UNAVAILABLE_503)])
async def test_a_fault_that_lasts_refuses_the_job(make_world: MakeWorld, rule: Rule) -> None:
    """An outage that outlasts all attempts ends the job as REFUSED, not charged."""
    world = make_world(faults=[rule])
    async with world.client() as client:
        job = client.submit(a_request())
        with pytest.raises(ModelsLabError) as caught:
            await job
    assert (job.state, caught.value.charged, world.service.ledger.charges) == (JobState.REFUSED, False, [])


@pytest.mark.parametrize("profile", ["documented", "legacy"])
async def test_the_error_of_a_failed_job_has_the_services_message(make_world: MakeWorld, profile: str) -> None:
    """The error says too that the job may have been charged."""
    async with make_world(faults=[Rule(Fault.JOB_FAILS)], profile=profile).client() as client:
        job = client.submit(a_request())
        with pytest.raises(JobFailedError, match="Something went wrong") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.FAILED, None, job.id)


async def test_a_failed_status_that_says_try_again_is_bounded(make_world: MakeWorld) -> None:
    """The status "failed" with a message to try again fails the job only after some polls."""
    async with make_world(faults=[Rule(Fault.TRY_AGAIN)]).client() as client:
        with pytest.raises(JobFailedError, match="Try Again"):
            await client.submit(a_request())


async def test_success_without_a_link_uses_the_announced_link(make_world: MakeWorld) -> None:
    """If the output stays empty, the video is read at the link that the acceptance announced."""
    world = make_world(faults=[Rule(Fault.EMPTY_OUTPUT)])
    async with world.client() as client:
        video = await client.submit(a_request())
    assert video.url == next(iter(world.service.jobs.values())).link(world.service.origin)


async def test_success_without_any_link_ends_the_job(make_world: MakeWorld) -> None:
    """The error says so, the slot is freed, and `attach` finds the video once there is a link."""
    rules = [Rule(Fault.EMPTY_OUTPUT), Rule(Fault.LATE_LINK, seconds=200.0)]
    world = make_world(faults=rules)
    async with world.client(max_in_flight=1, timeouts=Timeouts(link=30.0)) as client:
        job, following = client.submit(a_request()), client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="reports success, but its output holds no link") as caught:
            await job
        assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.TIMED_OUT, True, job.id)
        await following.submitted()
        await asyncio.sleep(300)
        rules.clear()
        assert (await client.attach(job.id or "")).id == job.id


@pytest.mark.parametrize("rule", [Rule(Fault.LATE_LINK, seconds=300.0), Rule(Fault.HTML_AS_MP4)])
async def test_a_file_that_never_comes_is_no_video(make_world: MakeWorld, rule: Rule) -> None:
    """After success without a readable file the error says that the job is charged, and has its id and link."""
    world = make_world(faults=[rule])
    async with world.client() as client:
        job = client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="generations") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.READY, True, job.id)


async def test_a_cut_file_is_never_saved(make_world: MakeWorld, tmp_path: Path) -> None:
    """The error says that the mp4 is cut short, and no file is left at the path or beside it."""
    async with make_world(faults=[Rule(Fault.CUT_MP4)]).client() as client:
        job = client.submit(a_request())
        with pytest.raises(InvalidVideoError, match="truncated"):
            await job.save(tmp_path / "video.mp4")
    assert list(tmp_path.iterdir()) == []


async def test_a_timeout_names_the_result_of_the_last_poll(make_world: MakeWorld) -> None:
    """If every poll failed, the error of the timeout says why."""
    async with make_world(faults=[Rule(Fault.HTML_520, on="fetch")]).client(timeouts=Timeouts(job=60.0)) as client:
        with pytest.raises(JobTimeoutError, match="gateway error"):
            await client.submit(a_request())


async def test_waking_a_finished_job_costs_few_polls(make_world: MakeWorld) -> None:
    """A wake-up while the links are probed does not lead to a storm of probes."""
    world = make_world(faults=[Rule(Fault.LATE_LINK, seconds=40.0)])
    async with world.client() as client:
        job = client.submit(a_request())
        async for event in job.events():
            if event.state is JobState.READY:
                job.wake()
        await job
    assert world.count("generations") <= 20


async def test_each_strategy_asks_its_own_source(make_world: MakeWorld) -> None:
    """`"links"` probes the announced link and fetches seldom. `"poll"` only fetches, and trusts the status."""
    for strategy in ("links", "poll", "auto"):
        world = make_world()
        async with world.client(wait=strategy) as client:
            video = await client.submit(a_request())
        probes = world.count("generations")
        assert video.url in video.links
        assert probes == 0 if strategy == "poll" else probes >= 1
        assert world.count("fetch") <= (probes if strategy == "links" else 60)


async def test_a_key_that_is_withdrawn_ends_the_job_as_recoverable(make_world: MakeWorld) -> None:
    """The poll's 401 ends the job at once, as TIMED_OUT and charged, so that `attach` can collect it later."""
    world = make_world(keys=[KEY])
    async with world.client(timeouts=Timeouts(job=600)) as client:
        job = client.submit(a_request())
        await job.submitted()
        world.service.accounts.set_accepted(KEY, False)
        with pytest.raises(ModelsLabError, match="API Key") as caught:
            await job
    assert (job.state, caught.value.charged, caught.value.job_id) == (JobState.TIMED_OUT, True, job.id)
