"""The client as users meet it, on virtual time."""

from __future__ import annotations

import asyncio
import gc
import json
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from helpers.inside import events_of, run_of
from helpers.world import KEY, PNG, World, a_request

from modelslab_async import (
    AuthenticationError,
    BeyondDocumentationWarning,
    Budget,
    Client,
    ClientStateError,
    ImageToVideoUltra,
    InvalidRequestError,
    Job,
    JobDetachedError,
    JobError,
    JobState,
    JobTimeoutError,
    ModelsLabError,
    NotFoundError,
    ServerError,
    SubmitUncertainError,
    Timeouts,
)
from modelslab_async.emulator import Fault, InProcess, Rule
from modelslab_async.media import images
from modelslab_async.protocol.reply import HttpReply

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState


async def states(job: Job) -> list[JobState]:
    return [change.state async for change in job.events()]


async def test_a_request_becomes_a_video(world: MakeWorld) -> None:
    """Submit returns a job at once; awaiting it gives the video; it was charged once."""
    here = world()
    async with here.client() as client:
        job = client.submit(a_request(seed=7))
        assert not job.done()
        video = await job
    assert (video.seed, video.ref, video.id) == (7, job.ref, job.id)
    assert here.service.ledger.track_ids() == [job.ref]


async def test_events_tell_every_state_in_order_with_growing_times(world: MakeWorld) -> None:
    """events() replays the news so far and follows to the end, for any number of listeners; a look is news too."""
    async with world().client() as client:
        job = client.submit(a_request())
        early = asyncio.create_task(states(job))
        await job
        late = [event async for event in job.events()]
    assert await early == [event.state for event in late]
    assert list(dict.fromkeys(await early)) == [S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY]
    assert [event.elapsed for event in late] == sorted(event.elapsed for event in late)


async def test_futures_vocabulary(world: MakeWorld) -> None:
    """done, result, exception, callbacks and wait mean what they mean for asyncio's futures."""
    called: list[Job] = []
    async with world().client() as client:
        job = client.submit(a_request())
        job.add_done_callback(called.append)
        with pytest.raises(asyncio.InvalidStateError):
            job.result()
        assert not await job.wait(timeout=1.0)
        assert await job.wait()
        assert (job.result(), job.exception(), job.cancelled()) == (await job, None, False)
        await asyncio.sleep(0)
    assert called == [job]


async def test_submitted_gives_the_services_id_before_the_end(world: MakeWorld) -> None:
    """submitted() returns at the acceptance, and raises the job's error where there is none."""
    here = world(keys=[KEY])
    async with here.client() as client, here.client(api_key="another-key-than-that") as stranger:
        job = client.submit(a_request())
        assert await job.submitted() == job.id
        assert job.state is S.PROCESSING
        with pytest.raises(AuthenticationError):
            await stranger.submit(a_request()).submitted()


async def test_a_cancelled_awaiter_leaves_the_job_alone(world: MakeWorld) -> None:
    """Cancelling a task that awaits a job never cancels the job: it is paid for."""
    async with world().client() as client:
        job = client.submit(a_request())
        awaiter = asyncio.ensure_future(client.as_completed([job]).__anext__())
        waiter = asyncio.create_task(_await(job))
        await job.submitted()
        waiter.cancel()
        awaiter.cancel()
        await asyncio.wait([waiter, awaiter])
        assert waiter.cancelled()
        assert (await job).ref == job.ref


async def _await(job: Job) -> None:
    await job


async def test_who_waits_in_vain_leaves_nothing_behind(world: MakeWorld) -> None:
    """Waiting for a while, again and again, costs the job no memory, and the one who waits on gets the video."""
    async with world().client() as client:
        job = client.submit(a_request())
        patient = asyncio.ensure_future(job)
        await asyncio.sleep(0)
        before = len(gc.get_referrers(job))
        for _ in range(50):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(job, 0.1)
        assert len(gc.get_referrers(job)) == before
        assert (await patient).ref == job.ref


async def test_gather_takes_jobs(world: MakeWorld) -> None:
    """A Job is an awaitable like any other."""
    async with world().client() as client:
        jobs = [client.submit(a_request(seed=seed)) for seed in range(7)]
        videos = await asyncio.gather(*jobs)
    assert [video.seed for video in videos] == list(range(7))


async def test_cancel_before_the_post_costs_nothing(world: MakeWorld) -> None:
    """cancel() is True only while the job waits for its turn, and then nothing is sent or charged."""
    here = world()
    async with here.client(max_in_flight=1) as client:
        first, second = client.submit(a_request()), client.submit(a_request())
        await first.submitted()
        assert second.cancel()
        assert (second.state, second.cancelled(), second.done()) == (S.CANCELLED, True, True)
        assert await states(second) == [S.WAITING, S.CANCELLED]
        with pytest.raises(asyncio.CancelledError):
            await second
        await first
    assert here.service.ledger.track_ids() == [first.ref]


async def test_cancel_after_the_post_does_nothing(world: MakeWorld) -> None:
    """There is no cancel at the service: cancel() is False, and the job goes on."""
    async with world().client() as client:
        job = client.submit(a_request())
        assert not job.cancel()
        await job.submitted()
        assert not job.cancel()
        await job
        assert not job.cancel()


@pytest.mark.parametrize("content", [None, b"", b"<html>", PNG + bytes(6_000_000)])
async def test_a_picture_that_changes_while_its_job_waits(
    world: MakeWorld, tmp_path: Path, content: bytes | None
) -> None:
    """A file is read when the job's turn comes: gone or spoilt by then, the job is refused, nothing sent or charged."""
    here = world()
    picture = tmp_path / "picture.png"
    picture.write_bytes(PNG)
    async with here.client(max_in_flight=1) as client:
        first, second = client.submit(a_request()), client.submit(a_request(init_image=picture))
        if content is None:
            picture.unlink()
        else:
            picture.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="init_image") as caught:
            await second
        await first
    assert (second.state, caught.value.charged, caught.value.ref) == (S.REFUSED, False, second.ref)
    assert here.service.ledger.track_ids() == [first.ref]


async def test_leaving_normally_waits_for_all_jobs(world: MakeWorld) -> None:
    """Leaving the block waits for every job, those that wait for their turn included."""
    here = world()
    async with here.client(max_in_flight=2) as client:
        jobs = [client.submit(a_request()) for _ in range(5)]
    assert [job.state for job in jobs] == [S.READY] * 5
    assert len(here.service.ledger.charges) == 5


async def test_leaving_normally_waits_for_downloads(world: MakeWorld, tmp_path: Path) -> None:
    """A download under way is finished before the client closes."""
    here = world(faults=[Rule(Fault.BROKEN_DOWNLOAD, times=4)])
    async with here.client() as client:
        job = client.submit(a_request())
        await job
        saving = asyncio.create_task(job.save(tmp_path / "video.mp4"))
        await asyncio.sleep(0)
    assert saving.done()
    assert saving.result().size_bytes > 0


@pytest.mark.parametrize("patience", [None, 500.0])
async def test_who_is_about_to_save_gets_to_save(world: MakeWorld, tmp_path: Path, patience: float | None) -> None:
    """Leaving the block closes nothing under a task that awaits a job in order to save its video."""
    path = tmp_path / "video.mp4"
    async with world().client() as client:
        job = client.submit(a_request())

        async def keep() -> None:
            if patience is None:
                await job.save(path)
            else:
                await client.download(await asyncio.wait_for(job, patience), path)

        keeping = asyncio.create_task(keep())
    await keeping
    assert path.stat().st_size > 0


async def test_a_client_that_closes_does_not_sit_out_the_waits_between_tries(world: MakeWorld) -> None:
    """Between two tries of a submit nothing is under way: closing ends the wait, and nothing was charged."""
    here = world(faults=[Rule(Fault.UNAVAILABLE_503, times=4)])
    client = here.client()
    job = client.submit(a_request())
    await asyncio.sleep(2.0)
    started = asyncio.get_running_loop().time()
    await client.aclose(drain=False)
    assert asyncio.get_running_loop().time() - started < 0.1
    assert (job.state, here.service.ledger.charges) == (S.REFUSED, [])


async def test_map_does_not_swallow_a_cancellation(world: MakeWorld) -> None:
    """Who is cancelled inside `map` is cancelled."""

    async def consume() -> None:
        async for _ in client.map([a_request()] * 5):
            pass

    async with world().client() as client:
        task = asyncio.create_task(consume())
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


async def test_leaving_by_an_exception_detaches(world: MakeWorld) -> None:
    """Running jobs are let go of and told as charged; waiting ones are withdrawn; nothing more is submitted."""
    here = world()
    client = here.client(max_in_flight=1)
    running, waiting = client.submit(a_request()), client.submit(a_request())
    with pytest.raises(KeyError):
        async with client:
            await running.submitted()
            raise KeyError
    error = running.exception()
    assert isinstance(error, JobDetachedError)
    assert (error.charged, error.job_id, error.ref) == (True, running.id, running.ref)
    assert waiting.cancelled()
    assert len(here.service.ledger.charges) == 1


async def test_leaving_while_a_submit_is_under_way_hears_its_reply(world: MakeWorld) -> None:
    """The reply to a paid request is waited for even then: it says whether there is something to pay for."""
    here = world(faults=[Rule(Fault.SLOW, seconds=20.0)])
    client = here.client()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await client.aclose(drain=False)
    assert [change.state for change in await events_of(job)] == [S.WAITING, S.SUBMITTING, S.PROCESSING]
    assert job.elapsed >= 20.0
    assert isinstance(job.exception(), JobDetachedError)
    assert job.id is not None


class Far(InProcess):
    """An emulator at the end of a slow line."""

    async def post(self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False) -> HttpReply:
        await asyncio.sleep(5.0)
        return await super().post(url, body, timeout=timeout, own_connection=own_connection)


async def test_leaving_while_a_submit_is_being_refused_withdraws_the_job(world: MakeWorld) -> None:
    """A job that comes back for want of a place while the client closes was not taken, and is not told as charged."""
    here = world(faults=[Rule(Fault.RATE_LIMIT)])
    client = here.client(transport=Far(here.service))
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    await client.aclose(drain=False)
    assert (job.state, job.cancelled(), here.service.ledger.charges) == (S.CANCELLED, True, [])


class Broken(InProcess):
    """Breaks as no network does, at the first request whose path has this part."""

    part = ""

    def record_request(self, path: str) -> float:
        if self.part in path:
            raise ArithmeticError("a mistake")
        return super().record_request(path)


@pytest.mark.parametrize(
    ("part", "state", "charged"),
    [("img2video_ultra", S.UNCERTAIN, None), ("fetch", S.TIMED_OUT, True), (".mp4", S.READY, True)],
)
async def test_a_mistake_of_ours_ends_the_job_with_what_is_known(
    world: MakeWorld, part: str, state: JobState, charged: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Who awaits a job never hangs: it ends, says whether it may be charged, and asks for a report."""
    here = world()
    broken = Broken(here.service)
    broken.part = part
    async with here.client(transport=broken) as client:
        job = client.submit(a_request())
        with pytest.raises(JobError, match="please report it: ArithmeticError") as told:
            await job
    assert (job.state, told.value.charged) == (state, charged)
    assert "a bug in modelslab_async" in caplog.text


def test_a_loop_that_stops_under_a_submit_leaves_it_uncertain(world: MakeWorld) -> None:
    """asyncio.run cancels every task at its end: what was on the way may be charged, and is told so."""
    here = world()
    jobs: list[Job] = []

    class Silent(InProcess):
        async def post(
            self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            self.record_request(url)
            begun.set()
            await asyncio.Event().wait()
            raise AssertionError(url, body, timeout)

    begun = asyncio.Event()

    async def leave() -> None:
        client = here.client(transport=Silent(here.service), max_in_flight=1)
        jobs.extend([client.submit(a_request()), client.submit(a_request())])
        await begun.wait()

    asyncio.run(leave())
    sent, waiting = jobs
    assert (sent.state, waiting.state) == (S.UNCERTAIN, S.WAITING)
    error = sent.exception()
    assert isinstance(error, SubmitUncertainError)
    assert error.charged is None


async def test_attach_watches_on(world: MakeWorld) -> None:
    """A job that another client submitted is watched to its end, and costs nothing more."""
    here = world()
    client = here.client()
    job_id = await client.submit(a_request()).submitted()
    await client.aclose(drain=False)
    async with here.client() as other:
        video = await (await other.attach(job_id))
    assert video.id == job_id
    assert len(here.service.ledger.charges) == 1


async def test_attach_to_an_unknown_id_ends_at_the_first_poll(world: MakeWorld) -> None:
    """Nothing was paid for an id that the service does not know, and the next attach asks again."""
    here = world()
    async with here.client() as client:
        for polls in (1, 2):
            job = await client.attach(4711)
            with pytest.raises(NotFoundError) as caught:
                await job
            assert (job.state, caught.value.charged, here.count("fetch")) == (S.REFUSED, False, polls)


async def test_what_the_service_did_not_tell_belongs_to_nobody_else(world: MakeWorld) -> None:
    """Videos of which no echo came have each an empty one: what an application does with it stays with its video."""
    here = world()
    async with here.client() as client:
        job = client.submit(a_request())
        await job
    clients = [here.client() for _ in range(2)]
    videos = [await (await client.attach(str(job.id))) for client in clients]
    for client in clients:
        await client.aclose()
    assert [dict(video.meta) for video in videos] == [{}, {}]
    assert videos[0].meta is not videos[1].meta


async def test_a_job_that_outlives_its_timeout_is_told_as_recoverable(world: MakeWorld) -> None:
    """Timeouts.job ends the watch, not the job: attach collects it."""
    here = world()
    async with here.client(timeouts=Timeouts(job=5.0)) as client:
        job = client.submit(a_request())
        with pytest.raises(JobTimeoutError) as caught:
            await job
    assert isinstance(caught.value, TimeoutError)
    assert (job.state, caught.value.charged, caught.value.job_id) == (S.TIMED_OUT, True, job.id)
    async with here.client() as client:
        assert (await client.attach(str(job.id))).id == job.id


async def test_as_completed_gives_each_job_once_as_it_ends(world: MakeWorld) -> None:
    """Each job comes once, however it ends, in the order of the ends."""
    async with world().client() as client:
        jobs = [client.submit(a_request(num_frames=frames)) for frames in (81, 17, 41)]
        given = [job async for job in client.as_completed([*jobs, jobs[0]])]
    assert given == [jobs[1], jobs[2], jobs[0]]


async def test_map_keeps_its_window_and_gives_every_job(world: MakeWorld) -> None:
    """At most `lookahead` requests are taken ahead of what was given, and bad ones come as refused jobs."""
    taken = 0

    async def endless() -> AsyncIterator[ImageToVideoUltra]:
        nonlocal taken
        for number in range(30):
            taken += 1
            yield a_request(prompt="" if number == 13 else "moving", num_frames=17)

    given: list[Job] = []
    async with world().client() as client:
        async for job in client.map(endless(), lookahead=4):
            given.append(job)
            assert taken - len(given) <= 4
    assert len(set(given)) == 30
    assert [job.state for job in given].count(S.REFUSED) == 1


async def test_map_gives_what_is_paid_before_it_raises(world: MakeWorld) -> None:
    """What the iterable raises comes after the jobs before it, so nothing paid is lost."""

    async def two_then_broken() -> AsyncIterator[ImageToVideoUltra]:
        yield a_request()
        yield a_request()
        raise OSError("the disk went away")

    given = []
    async with world().client() as client:
        with pytest.raises(OSError, match="went away"):
            async for job in client.map(two_then_broken()):
                given.append(job)
    assert [job.state for job in given] == [S.READY, S.READY]


async def test_leaving_map_early_keeps_the_jobs(world: MakeWorld) -> None:
    """Who breaks out of map submits no more; what was submitted still ends with the client."""
    here = world()
    async with here.client() as client:
        async for _ in client.map([a_request()] * 50, lookahead=3):
            break
        charged = len(here.service.ledger.charges)
        assert 3 <= charged <= 5
    assert len(here.service.ledger.charges) <= charged + 3
    assert all(job.state(float("inf")) == "success" for job in here.service.jobs.values())


async def test_limits_refuse_warn_or_send(world: MakeWorld) -> None:
    """Beyond the documented limits: refused by default, warned and sent, or just sent."""
    here = world()
    async with here.client() as client, here.client(limits="warn") as warner, here.client(limits=None) as sender:
        with pytest.raises(InvalidRequestError, match="num_inference_steps=31"):
            client.submit(a_request(num_inference_steps=31))
        with pytest.warns(BeyondDocumentationWarning, match="num_inference_steps=31"):
            await warner.submit(a_request(num_inference_steps=31))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            await sender.submit(a_request(num_inference_steps=31))
        with pytest.raises(InvalidRequestError, match="prompt"):
            sender.submit(a_request(prompt=""))
    assert len(here.service.ledger.charges) == 2


async def test_submit_takes_keywords_mappings_and_changes(world: MakeWorld) -> None:
    """Keywords, the page's names, or a request with changes: all the same request."""
    async with world().client() as client:
        jobs = [
            client.submit(prompt="a", init_image="https://pictures.invalid/a.png", shift_sample=3),
            client.submit({"prompt": "a", "init_image": "https://pictures.invalid/a", "shift_sample": 3, "key": ""}),
            client.submit(a_request(prompt="b", sample_shift=7), prompt="a", shift_sample=3),
        ]
    for job in jobs:
        assert job.request is not None
        assert (job.request.prompt, job.request.sample_shift) == ("a", 3)


async def test_a_track_id_is_the_ref_and_cannot_be_used_twice_at_a_time(world: MakeWorld) -> None:
    """The webhook finds a job by its track_id: two open jobs may not share one."""
    async with world().client() as client:
        job = client.submit(a_request(track_id="mine"))
        with pytest.raises(InvalidRequestError, match="track_id"):
            client.submit(a_request(track_id="mine"))
        await job
        assert (await client.submit(a_request(track_id="mine"))).ref == "mine"


async def test_calls_that_cost_nothing(world: MakeWorld) -> None:
    """balance, queue_depth and upload say what the service says, and are repeated while their failure may pass."""
    faults = [Rule(Fault.HTML_502, on="call", times=1), Rule(Fault.REFUSED, on="call", times=1, seconds=1.0)]
    here = world(faults=faults)
    async with here.client() as client:
        job = client.submit(a_request())
        await job.submitted()
        assert await client.queue_depth() == 1
        balance = await client.balance()
        assert (str(balance.amount), balance.currency) == ("99.8", "USD")
        url = await client.upload(b"\x89PNG\r\n\x1a\n" + bytes(100))
        assert url.startswith(here.service.origin)
        with pytest.raises(InvalidRequestError, match="a URL already"):
            await client.upload(url)


async def test_enterprise_uses_its_paths_and_limits(world: MakeWorld) -> None:
    """A dedicated server has other paths, other limits, and takes no base64."""
    here = world()
    async with here.client(enterprise=True) as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.submit(a_request(num_inference_steps=9, init_image=b"\x89PNG\r\n\x1a\n0000"))
        assert {problem.field for problem in caught.value.problems} == {"num_inference_steps", "init_image"}
        await client.submit(a_request(num_inference_steps=8, guidance_scale=1.5, fps=18))
    assert all("/api/v1/enterprise/" in path for path in here.transport.requests if "generations" not in path)


async def test_a_closed_client_says_so(world: MakeWorld) -> None:
    """After closing nothing is submitted; closing twice is fine."""
    client = world().client()
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientStateError, match="closed"):
        client.submit(a_request())
    with pytest.raises(ClientStateError, match="closed"):
        await client.balance()


def test_a_client_belongs_to_one_event_loop(world: MakeWorld) -> None:
    """In another loop, and outside of any, the client says so instead of hanging."""
    here = world()
    client = here.client()
    with pytest.raises(ClientStateError, match="running event loop"):
        client.submit(a_request())

    async def use() -> None:
        await client.queue_depth()

    asyncio.run(use())
    with pytest.raises(ClientStateError, match="another event loop"):
        asyncio.run(use())


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"base_url": "http://modelslab.com"}, "base_url"),
        ({"base_url": "ftp://modelslab.com"}, "base_url"),
        ({"base_url": "https://user:word@modelslab.com"}, "base_url"),
        ({"max_in_flight": 0}, "max_in_flight"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"limits": "ignore"}, "limits"),
        ({"wait": "hope"}, "wait"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, object], field: str) -> None:
    """One clear error that names the argument, before any network."""
    with pytest.raises(InvalidRequestError) as caught:
        Client(api_key=KEY, **options)  # type: ignore[arg-type]
    assert [problem.field for problem in caught.value.problems] == [field]


@pytest.mark.parametrize("value", [0, -1, True, float("nan"), "10"])
def test_bad_timeouts_are_refused(value: object) -> None:
    """Seconds above 0, or None."""
    with pytest.raises(InvalidRequestError, match=r"timeouts\.submit"):
        Timeouts(submit=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["secret\nkey-of-somebody", "secret\udc80key-of-somebody"])
def test_a_key_that_can_be_none_is_refused_and_not_shown(key: str) -> None:
    """Two lines of a file, or bytes of an environment that are no text."""
    with pytest.raises(AuthenticationError, match="just the key") as told:
        Client(api_key=key)
    assert "secret" not in repr(told.value)
    assert told.value.__context__ is None


def test_a_missing_key_names_both_ways_and_the_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument or environment; without an account, the emulator."""
    monkeypatch.delenv("MODELSLAB_API_KEY", raising=False)
    with pytest.raises(AuthenticationError) as caught:
        Client()
    assert all(word in str(caught.value) for word in ("api_key", "MODELSLAB_API_KEY", "emulator"))
    monkeypatch.setenv("MODELSLAB_API_KEY", KEY)
    assert KEY not in repr(Client())


async def test_a_second_close_waits_for_the_first(world: MakeWorld) -> None:
    """Who closes too may leave the event loop after it: the reply to a paid request was heard by then."""
    here = world(faults=[Rule(Fault.SLOW, seconds=20.0)])
    client = here.client()
    job = client.submit(a_request())
    await asyncio.sleep(1.0)
    first = asyncio.create_task(client.aclose(drain=False))
    await asyncio.sleep(1.0)
    await client.aclose()
    assert first.done()
    assert job.id is not None


async def test_an_account_that_was_closed_is_opened_anew(world: MakeWorld) -> None:
    """A user who comes back has a client again."""
    async with world().client() as client:
        await (await client.account("the key of one user")).aclose()
        assert (await (await client.account("the key of one user")).generate(a_request())).url


async def test_a_service_that_is_down_for_an_hour_is_told_at_once(world: MakeWorld) -> None:
    """It was not taken: a job that holds its place until then would hold up all others."""

    class Down(InProcess):
        async def post(
            self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            self.record_request(url)
            return HttpReply(503, b'{"status": "error", "message": "maintenance"}', "3600")

    here = world()
    async with here.client(transport=Down(here.service)) as client:
        job = client.submit(a_request())
        assert await job.wait(120.0)
    error = job.exception()
    assert isinstance(error, ServerError)
    assert (job.state, error.charged, error.retry_after) == (S.REFUSED, False, 3600.0)


@pytest.mark.parametrize(("code", "calls"), [(503, "submit"), (503, "balance"), (429, "balance")])
async def test_a_wait_that_the_service_asks_for_is_kept(world: MakeWorld, code: int, calls: str) -> None:
    """Retry-After counts where it is longer than the wait that would be chosen."""

    class Busy(InProcess):
        async def post(
            self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            if self.requests:
                return await super().post(url, body, timeout=timeout, own_connection=own_connection)
            self.record_request(url)
            return HttpReply(code, b'{"status": "error", "message": "busy"}', "25")

    here = world()
    async with here.client(transport=Busy(here.service)) as client:
        begun = asyncio.get_running_loop().time()
        await (client.submit(a_request()).submitted() if calls == "submit" else client.balance())
        assert 25.0 <= asyncio.get_running_loop().time() - begun <= 26.0


async def test_an_oddity_is_told_once(world: MakeWorld, caplog: pytest.LogCaptureFixture) -> None:
    """A status that is not documented, at each look at two jobs: one warning, and the jobs go on."""

    class Odd(InProcess):
        async def post(
            self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            reply = await super().post(url, body, timeout=timeout, own_connection=own_connection)
            return reply._replace(body=reply.body.replace(b'"processing"', b'"polishing"'))

    here = world()
    async with here.client(transport=Odd(here.service)) as client:
        await asyncio.gather(*[client.generate(a_request()) for _ in range(2)])
    told = [record.getMessage() for record in caplog.records if "polishing" in record.getMessage()]
    assert len(told) == 1


async def test_a_picture_is_let_go_once_it_was_sent(world: MakeWorld) -> None:
    """Five megabytes for each job of a batch that is watched would be too much."""
    async with world().client() as client:
        job = client.submit(a_request(init_image=PNG))
        run = run_of(client, job.ref)
        assert run.image is not None
        await job.submitted()
        assert run.image is None


@pytest.mark.parametrize(("named", "expected"), [(False, 7), (True, 9)])
async def test_the_seed_is_the_services_where_it_names_one(world: MakeWorld, named: bool, expected: int) -> None:
    """Else the one that was asked for; and the time is the service's own figure."""

    class AtOnce(InProcess):
        async def post(
            self, url: str, body: bytes, *, timeout: float | None, own_connection: bool = False
        ) -> HttpReply:
            await super().post(url, body, timeout=timeout, own_connection=own_connection)
            (job,) = self.service.jobs.values()
            job.file_at = 0.0
            told = {"status": "success", "id": job.id, "output": [job.link(self.service.origin)]}
            more = {"generationTime": 4.5, "meta": {"seed": 9} if named else {}}
            return HttpReply(200, json.dumps({**told, **more}).encode())

    here = world()
    async with here.client(transport=AtOnce(here.service)) as client:
        video = await client.generate(a_request(seed=7))
    assert (video.seed, video.generation_time) == (expected, 4.5)


async def test_arguments_of_calls_that_cannot_be_right(world: MakeWorld) -> None:
    """One clear error each, and nothing is sent."""
    here = world()
    async with here.client() as client:
        with pytest.raises(InvalidRequestError, match="job_id"):
            await client.attach(" ")
        with pytest.raises(InvalidRequestError, match="lookahead"):
            await client.map([a_request()], lookahead=0).__anext__()
    assert here.transport.requests == []


@pytest.mark.parametrize("name", ["init_image", "fps", "track_id", "webhook", "model_id"])
async def test_a_key_in_the_wrong_place_is_not_shown(world: MakeWorld, name: str) -> None:
    """A column of a table that is off by one: what is wrong is told without the key."""
    async with world().client() as client:
        with pytest.raises(InvalidRequestError) as caught:
            client.check({"prompt": "a", "init_image": "https://pictures.invalid/a.png", "seed": "x", name: KEY})
    assert KEY not in str(caught.value)
    assert KEY not in repr(caught.value.problems)


async def test_what_another_paid_for_is_not_priced(world: MakeWorld) -> None:
    """A job that is attached to was submitted elsewhere: whether and what it cost is not known here."""
    here = world(faults=[Rule(Fault.JOB_FAILS)])
    async with here.client() as payer, here.client() as other:
        own = payer.submit(a_request())
        attached = await other.attach(await own.submitted())
        errors = [await _error(job) for job in (own, attached)]
    assert [error.price for error in errors] == [payer.prices.usd, None]


async def _error(job: Job) -> ModelsLabError:
    await job.wait()
    error = job.exception()
    assert isinstance(error, ModelsLabError)
    return error


async def test_a_mistake_before_the_request_costs_nothing(world: MakeWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not sent is not charged, whatever went wrong."""

    def without_memory(_: object) -> bytes:
        raise MemoryError

    here, budget = world(), Budget(usd=5)
    monkeypatch.setattr(images, "load", without_memory)
    async with here.client(budget=budget) as client:
        job = client.submit(a_request())
        with pytest.raises(JobError, match="please report it: MemoryError") as told:
            await job
    assert (job.state, told.value.charged, here.transport.requests) == (S.REFUSED, False, [])
    assert budget.held == 0


async def test_a_file_that_is_there_is_not_replaced(world: MakeWorld, tmp_path: Path) -> None:
    """Without `overwrite`: it is told before anything is fetched, and at the end where it came meanwhile."""
    here, there, coming = world(), tmp_path / "there.mp4", tmp_path / "coming.mp4"
    there.write_bytes(b"mine")
    async with here.client() as client:
        video = await client.generate(a_request())
        asked = here.count("generations")
        with pytest.raises(FileExistsError):
            await client.download(video, there, overwrite=False)
        assert here.count("generations") == asked
        with pytest.raises(FileExistsError):
            await client.download(video, coming, overwrite=False, progress=lambda *_: coming.write_bytes(b"mine"))
    names = ("there.mp4", "coming.mp4")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == dict.fromkeys(names, b"mine")
