"""What a new client takes up of what an old one left: on virtual time, with a journal on disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from helpers.inside import engine_of
from helpers.world import KEY, PNG, World, a_request

from modelslab_async import (
    AuthenticationError,
    Budget,
    Client,
    ClientStateError,
    InvalidRequestError,
    InvalidVideoError,
    Job,
    JobFailedError,
    JobRecord,
    JobState,
    JournalError,
    ModelsLabError,
    PriceList,
    SubmitUncertainError,
)
from modelslab_async.emulator import Fault, Rule
from modelslab_async.engine.recorder import Recorder
from modelslab_async.journal.sqlite import SqliteJournal
from modelslab_async.webhook import Webhook

pytestmark = pytest.mark.looptime
MakeWorld = Callable[..., World]
S = JobState
LOST_REPLY = Rule(Fault.RESET_AFTER, times=1)


async def row(client: Client, ref: str) -> JobRecord:
    """What the journal has of a job."""
    assert client.journal is not None
    record = await client.journal.find(client.account_id, ref=ref)
    assert record is not None
    return record


async def test_a_row_tells_all_that_is_needed_later(world: MakeWorld, tmp_path: Path) -> None:
    """Id, links, request, price, times and the picture's whereabouts; no key, and no picture."""
    picture = tmp_path / "a.png"
    picture.write_bytes(PNG + b"pixels that stay out of it")
    async with world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(init_image=picture, seed=7))
        await job.submitted()
        running = await row(client, job.ref)
        await job
        ready = await row(client, job.ref)
        saved = await job.save(tmp_path / "a.mp4")
        assert (await row(client, job.ref)).saved_path == str(saved.path)
    assert (running.state, running.job_id, running.charged) == (S.PROCESSING, job.id, True)
    assert running.request is not None
    assert (running.request["prompt"], running.request["seed"]) == ("moving character", 7)
    assert running.picture == {
        "source": "path",
        "where": str(picture),
        "length_bytes": picture.stat().st_size,
        "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }
    assert (ready.state, ready.links, str(ready.price)) == (S.READY, job.result().links, "0.2")
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert KEY.encode() not in written
    assert b"pixels that stay out of it" not in written


@pytest.mark.parametrize("source", ["path", "url", "bytes"])
async def test_a_row_that_waits_tells_where_its_picture_is(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    """So a later process can send it, from whatever folder: the absolute path, or the URL without the key. Bytes are
    not kept. Once the job is sent, length and digest are known too.
    """
    monkeypatch.chdir(tmp_path)
    Path("a.png").write_bytes(PNG)
    pictures: dict[str, tuple[Any, dict[str, Any]]] = {
        "path": ("a.png", {"source": "path", "where": str(tmp_path / "a.png")}),
        "url": (f"https://x.invalid/{KEY}/a", {"source": "url", "where": "https://x.invalid/***/a"}),
        "bytes": (PNG, {"source": "bytes"}),
    }
    picture, kept = pictures[source]
    async with world().client(journal=tmp_path / "jobs.db", max_in_flight=1) as client:
        running, waiting = (client.submit(a_request(init_image=picture)) for _ in range(2))
        await running.submitted()
        record = await row(client, waiting.ref)
        assert (record.state, record.picture) == (S.WAITING, kept)
        sent = (await row(client, running.ref)).picture or {}
        assert sent.items() >= kept.items()
        assert ("sha256" in sent) == (source != "url")
        await client.aclose(drain=False)
    written = b"".join(path.read_bytes() for path in tmp_path.glob("jobs.db*"))
    assert KEY.encode() not in written


async def test_a_reply_counts_though_its_client_was_taken_for_dead(world: MakeWorld, tmp_path: Path) -> None:
    """Another client lists the job as uncertain, and then its reply comes: the id is kept, the job goes on to its
    video, and it cannot be said to be lost.
    """
    here = world(faults=[Rule(Fault.SLOW, times=1, seconds=20)])
    async with here.client(journal=tmp_path / "jobs.db") as owner:
        job = owner.submit(a_request(track_id="mine"))
        await asyncio.sleep(5)
        journal = _TakesAllForDead(tmp_path / "jobs.db")
        async with here.client(journal=journal) as other:
            (doubted,) = (await other.recover()).uncertain
            assert (doubted.ref, doubted.owner) == ("mine", journal.owner)
            assert (await row(other, "mine")).state is S.UNCERTAIN
            await job.submitted()
            accepted = await row(other, "mine")
            assert (accepted.job_id, accepted.state) == (job.id, S.PROCESSING)
            with pytest.raises(InvalidRequestError, match="processing"):
                await other.resolve("mine", lost=True)
            await job.save(tmp_path / "a.mp4")
        assert (await row(owner, "mine")).saved_path == str(tmp_path / "a.mp4")


class _TakesAllForDead(SqliteJournal):
    """Sees no lock of another client, as on a share that keeps none."""

    def is_alive(self, owner: str) -> bool:
        return owner == self.owner


async def test_a_new_client_collects_what_an_old_one_paid_for(world: MakeWorld, tmp_path: Path) -> None:
    """Jobs that ran when their client went away are watched on by the next, and are not paid for again."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        left = [client.submit(a_request(seed=seed)) for seed in range(3)]
        for job in left:
            await job.submitted()
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        found = await client.recover()
        assert {job.ref for job in found.jobs} == {job.ref for job in left}
        assert {job.request.seed for job in found.jobs if job.request} == {0, 1, 2}
        for job in found.jobs:
            await job.save(tmp_path / f"{job.ref}.mp4")
        assert (await client.recover()).jobs == ()
    assert len(here.service.ledger.charges) == 3
    async with here.client(journal=tmp_path / "jobs.db") as client:
        assert (await client.recover()).jobs == ()


async def left_called(here: World, journal: Path, webhook: Webhook) -> Job:
    """A job that runs, of a client with a webhook that is gone."""
    async with here.client(journal=journal, webhook=webhook) as client:
        left = client.submit(a_request())
        await left.submitted()
        await client.aclose(drain=False)
    return left


def url_of(job: Job) -> str:
    """Where the service is to tell of its end."""
    return (job.request and job.request.webhook) or ""


async def test_what_a_delivery_took_up_is_recovered_too(world: MakeWorld, tmp_path: Path) -> None:
    """A delivery that comes before `recover` is called takes no job away from who calls it. It is given once, and jobs
    that this client submitted are not given.
    """
    here, webhook = world(), Webhook(public_url="https://hooks.invalid", secret="a secret that is long enough")
    left = await left_called(here, tmp_path / "jobs.db", webhook)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        own = client.submit(a_request())
        await own.submitted()
        assert (await webhook.handle(url_of(left), b"{}"))[0] == 200
        await asyncio.sleep(1)
        (found,) = (await client.recover()).jobs
        assert (await client.recover()).jobs == (await client.recover([left.ref, own.ref])).jobs == ()
        assert (await found).id == left.id
    assert len(here.service.ledger.charges) == 2


class _UnreadableOnce(SqliteJournal):
    """Reads rows but for one time, after it was told to."""

    fails = False

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        if self.fails and not ready:
            self.fails = False
            raise JournalError("the disk is away")
        return await super().unfinished(account, ready=ready)


async def left_running(here: World, journal: Path, count: int) -> list[Any]:
    """Jobs that run, of a client that is gone."""
    async with here.client(journal=journal) as client:
        left = [client.submit(a_request(seed=seed)) for seed in range(count)]
        for job in left:
            await job.submitted()
        await client.aclose(drain=False)
    return left


async def test_two_recoveries_at_a_time_give_each_job_once(world: MakeWorld, tmp_path: Path) -> None:
    """Two parts of an application that both ask do not both look after it."""
    here = world()
    left = await left_running(here, tmp_path / "jobs.db", 3)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        one, other = await asyncio.gather(client.recover(), client.recover())
        assert sorted(job.ref for job in (*one.jobs, *other.jobs)) == sorted(job.ref for job in left)


async def test_a_job_that_is_named_twice_is_given_once(world: MakeWorld, tmp_path: Path) -> None:
    """By its ref and by its id."""
    here = world()
    (left,) = await left_running(here, tmp_path / "jobs.db", 1)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        assert [job.ref for job in (await client.recover([left.ref, left.id])).jobs] == [left.ref]


@pytest.mark.parametrize("is_recovered_first", [False, True])
async def test_a_word_that_comes_while_its_job_is_recovered_counts(
    world: MakeWorld, tmp_path: Path, is_recovered_first: bool
) -> None:
    """Its client died within the submit: the id that the delivery names is known from then on, whoever is first."""
    here, webhook = world(), Webhook(public_url="https://hooks.invalid", secret="x" * 32)
    left = await left_called(here, tmp_path / "jobs.db", webhook)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        died = (await row(client, left.ref))._replace(state=S.SUBMITTING, job_id=None, charged=None, accepted_at=None)
        assert client.journal is not None
        await client.journal.append(died, take_over=died.owner)
        word = webhook.handle(url_of(left), json.dumps({"status": "success", "id": left.id}).encode())
        calls = [client.recover(), word]
        await asyncio.gather(*(calls if is_recovered_first else reversed(calls)))
        await asyncio.sleep(1)
        assert (await row(client, left.ref)).job_id == left.id
        assert (await client.attach(left.ref)).id == left.id
    assert len(here.service.ledger.charges) == 1


class _Slow(SqliteJournal):
    """Something happens between the reading of the rows and their use."""

    meanwhile: Callable[[], Awaitable[object]] | None = None

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        rows = await super().unfinished(account, ready=ready)
        if ready and self.meanwhile:
            await self.meanwhile()
        return rows


async def test_a_job_that_ends_while_it_is_recovered_is_given(world: MakeWorld, tmp_path: Path) -> None:
    """A delivery took it up, and its video was there, before its row's turn came."""
    here, webhook = world(), Webhook(public_url="https://hooks.invalid", secret="x" * 32)
    left = await left_called(here, tmp_path / "jobs.db", webhook)
    journal = _Slow(tmp_path / "jobs.db")
    async with here.client(journal=journal, webhook=webhook) as client:

        async def it_ends() -> None:
            await webhook.handle(url_of(left), b"{}")
            await asyncio.sleep(120)

        journal.meanwhile = it_ends
        (found,) = (await client.recover()).jobs
        assert (found.ref, found.state, (await found).id) == (left.ref, S.READY, left.id)


@pytest.mark.parametrize("search", [False, True])
async def test_what_a_recovery_that_failed_took_up_is_given_by_the_next(
    world: MakeWorld, tmp_path: Path, search: bool
) -> None:
    """Whatever it fails at: nobody was given those jobs yet."""
    here, journal = world(), _UnreadableOnce(tmp_path / "jobs.db")
    left = await left_running(here, tmp_path / "jobs.db", 3)
    if search:
        here.service.set_faults([Rule(Fault.RESET_BEFORE, on="call", times=4)])
    async with here.client(journal=journal) as client:
        journal.fails = not search
        with pytest.raises(ModelsLabError):
            await client.recover(search=search)
        assert {job.ref for job in (await client.recover()).jobs} == {job.ref for job in left}


async def test_what_was_attached_to_is_not_recovered_too(world: MakeWorld, tmp_path: Path) -> None:
    """A delivery took it up, and somebody has it by its ref."""
    here, webhook = world(), Webhook(public_url="https://hooks.invalid", secret="x" * 32)
    left = await left_called(here, tmp_path / "jobs.db", webhook)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        await webhook.handle(url_of(left), b"{}")
        await asyncio.sleep(1)
        assert (await client.attach(left.ref)).id == left.id
        assert (await client.recover()).jobs == ()


async def test_attach_gives_a_job_that_is_open_here(world: MakeWorld, tmp_path: Path) -> None:
    """By its ref, be it submitted here or taken up: the ref is no id of the service."""
    here = world()
    (left,) = await left_running(here, tmp_path / "jobs.db", 1)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        (found,) = (await client.recover()).jobs
        assert await client.attach(left.ref) is found
        own = client.submit(a_request())
        assert await client.attach(own.ref) is own


async def test_an_own_job_that_ends_while_recover_works_is_not_taken_up(world: MakeWorld, tmp_path: Path) -> None:
    """Its row was read while it ran: what it says since, that the video is saved, stays."""
    here = world()
    await left_running(here, tmp_path / "jobs.db", 1)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        own = client.submit(a_request())
        await own.submitted()
        stale = await row(client, own.ref)
        await own.save(tmp_path / "own.mp4")
        assert await engine_of(client).recoverer.restore(stale) is None
        assert (await row(client, own.ref)).saved_path == str(tmp_path / "own.mp4")


async def test_a_journal_by_another_path_has_the_same_clients(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link in another folder, and a relative path: what lives is not taken for dead."""
    here, folder = world(), tmp_path / "other"
    folder.mkdir()
    (folder / "link.db").symlink_to(tmp_path / "jobs.db")
    monkeypatch.chdir(tmp_path)
    async with here.client(journal="jobs.db") as one:
        job = one.submit(a_request())
        await job.submitted()
        async with here.client(journal=folder / "link.db") as other:
            monkeypatch.chdir(folder)
            found = await other.recover()
            assert (found.jobs, [record.ref for record in found.owned_elsewhere]) == ((), [job.ref])


async def test_a_delivery_that_takes_nothing_up_gives_no_new_job(world: MakeWorld, tmp_path: Path) -> None:
    """It names no id for an uncertain job; that was lost, and its ref is sent anew: recover gives no new job."""
    here, webhook = world(faults=[LOST_REPLY]), Webhook(public_url="https://hooks.invalid", secret="x" * 32)
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        left = client.submit(a_request(track_id="mine"))
        await asyncio.sleep(5)
        await client.aclose(drain=False)
    assert left.request is not None
    async with here.client(journal=tmp_path / "jobs.db", webhook=webhook) as client:
        await webhook.handle(url_of(left), b"{}")
        await asyncio.sleep(1)
        await client.resolve("mine", lost=True)
        await client.submit(a_request(track_id="mine")).submitted()
        assert (await client.recover()).jobs == ()


async def test_a_video_that_was_not_saved_can_be_saved_later(world: MakeWorld, tmp_path: Path) -> None:
    """It is known without asking; where its links died meanwhile, the service is asked for others."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await job
        assert client.journal is not None
        record = await row(client, job.ref)
        assert record.video is not None
        dead = {**record.video, "url": "https://files.invalid/gone"}
        await client.journal.append(record._replace(links=("https://files.invalid/gone",), video=dead))
    async with here.client(journal=tmp_path / "jobs.db") as client:
        (found,) = (await client.recover()).jobs
        assert found.result().url == "https://files.invalid/gone"
        saved = await found.save(tmp_path / "a.mp4")
        assert saved.path.exists()


async def test_an_uncertain_job_stays_so_and_is_shown(world: MakeWorld, tmp_path: Path) -> None:
    """Time, ref and request are known; it is not sent again, and its ref cannot be, by mistake."""
    here = world(faults=[LOST_REPLY])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        with pytest.raises(SubmitUncertainError):
            await job
    async with here.client(journal=tmp_path / "jobs.db") as client:
        (record,) = (await client.recover()).uncertain
        assert (record.ref, record.state, record.charged) == ("mine", S.UNCERTAIN, None)
        assert record.submitted_at is not None
        assert record.request is not None
        again = client.submit(a_request(track_id="mine"))
        with pytest.raises(InvalidRequestError, match="sent before"):
            await again
    assert len(here.service.ledger.charges) == 1


async def test_a_person_finds_the_uncertain_job(world: MakeWorld, tmp_path: Path) -> None:
    """The account's videos that no row knows are candidates; with the id of one the job goes on to its video."""
    here = world(faults=[LOST_REPLY])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        known = client.submit(a_request())
        await known.wait()
        other = await client.generate(a_request())
        await asyncio.sleep(100)
        (candidate,) = (await client.recover(search=True)).candidates
        assert candidate.id != other.id
        job = await client.resolve(known.ref, id=candidate.id)
        assert job is not None
        assert (await job).id == candidate.id
        assert (await row(client, known.ref)).charged is True
    assert len(here.service.ledger.charges) == 2


async def test_the_id_of_another_job_is_not_believed(world: MakeWorld, tmp_path: Path) -> None:
    """One that the journal knows cannot be the uncertain job's: that one stays uncertain, and can be resolved."""
    here = world(faults=[LOST_REPLY])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        lost = client.submit(a_request())
        await lost.wait()
        other = client.submit(a_request())
        await other
        with pytest.raises(InvalidRequestError, match=other.ref):
            await client.resolve(lost.ref, id=other.id)
        assert (await row(client, lost.ref)).state is S.UNCERTAIN
        job = await client.resolve(lost.ref, id=here.service.ledger.charges[0].job_id)
        assert job is not None
        await job


async def test_a_person_says_that_it_was_lost(world: MakeWorld, tmp_path: Path) -> None:
    """Then it counts as not charged, and its ref may be sent."""
    here = world(faults=[Rule(Fault.RESET_BEFORE, times=1)])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        await job.wait()
        assert job.state is S.UNCERTAIN
        assert await client.resolve("mine", lost=True) is None
        await client.submit(a_request(track_id="mine"))
    assert here.service.ledger.track_ids() == ["mine"]


async def test_resolving_what_cannot_be(world: MakeWorld, tmp_path: Path) -> None:
    """An unknown ref, a job that is not uncertain, and a word that says nothing are refused."""
    async with world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        await job
        with pytest.raises(InvalidRequestError, match="is not in the journal"):
            await client.resolve("unknown", lost=True)
        with pytest.raises(InvalidRequestError, match="ready"):
            await client.resolve(job.ref, lost=True)
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.resolve(job.ref)


async def test_jobs_of_others_fill_places(world: MakeWorld, tmp_path: Path) -> None:
    """A client on the same journal counts the jobs of the other, which is alive, and waits for a place among them."""
    here = world()
    path = tmp_path / "jobs.db"
    async with here.client(journal=path) as one:
        running = [one.submit(a_request()) for _ in range(2)]
        for job in running:
            await job.submitted()
        async with here.client(journal=path, max_in_flight=2) as other:
            waits = other.submit(a_request())
            assert len((await other.recover()).owned_elsewhere) == 2
            assert (waits.state, other.statistics().in_flight) == (S.WAITING, 0)
            await asyncio.wait([asyncio.ensure_future(job.wait()) for job in running], return_when="FIRST_COMPLETED")
            await asyncio.sleep(3)
            assert waits.state in (S.SUBMITTING, S.PROCESSING)
            await waits


class _SometimesUnreadable(SqliteJournal):
    """Cannot be read so many times."""

    failures = 0

    async def unfinished(self, account: str, *, ready: bool = True) -> Sequence[JobRecord]:
        if self.failures:
            self.failures -= 1
            raise JournalError("the disk is away")
        return await super().unfinished(account, ready=ready)


async def test_who_waits_for_places_of_others_goes_on_asking(world: MakeWorld, tmp_path: Path) -> None:
    """A journal that could not be read is asked again: the job that waits has its turn when there is a place."""
    here = world()
    journal = _SometimesUnreadable(tmp_path / "jobs.db")
    async with here.client(journal=tmp_path / "jobs.db") as one:
        running = [one.submit(a_request()) for _ in range(2)]
        for job in running:
            await job.submitted()
        async with here.client(journal=journal, max_in_flight=2) as other:
            waits, journal.failures = other.submit(a_request()), 3
            assert (await asyncio.wait_for(waits, 3600)).ref == waits.ref
            assert journal.failures == 0


async def test_attach_knows_refs_of_the_journal(world: MakeWorld, tmp_path: Path) -> None:
    """The ref of a job that another client left is as good as its id."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request(track_id="mine"))
        await job.submitted()
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        found = await client.attach("mine")
        assert (found.id, found.request is not None) == (job.id, True)
        assert (await found).ref == "mine"


async def test_a_new_job_is_not_taken_for_an_old_one_with_its_ref(world: MakeWorld, tmp_path: Path) -> None:
    """It waits for its turn, at which it will be refused; what was paid for before is taken up once that is done."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        paid = await client.generate(a_request(track_id="paid"))
        running = client.submit(a_request(track_id="running"))
        await running.submitted()
        here.service.set_faults([LOST_REPLY])
        await client.submit(a_request(track_id="uncertain")).wait()
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db", max_in_flight=3) as client:
        await client.submit(a_request()).submitted()
        new = {ref: client.submit(a_request(track_id=ref)) for ref in ("paid", "running", "uncertain")}
        assert (await client.recover()).jobs == ()
        with pytest.raises(InvalidRequestError, match="a new job with this ref"):
            await client.attach("running")
        with pytest.raises(InvalidRequestError, match="a new job with this ref"):
            await client.resolve("uncertain", id=here.service.ledger.charges[2].job_id)
        for job in new.values():
            with pytest.raises(InvalidRequestError, match="sent before"):
                await job
        assert await client.attach("running")
        assert await client.resolve("uncertain", id=here.service.ledger.charges[2].job_id)
        assert [await job for job in (await client.recover()).jobs if job.ref == "paid"] == [paid]
    assert len(here.service.ledger.charges) == 4


async def test_a_ref_is_attached_to_while_it_is_recovered(world: MakeWorld, tmp_path: Path) -> None:
    """Both give the same job, which is watched once."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        await client.submit(a_request(track_id="mine")).submitted()
        await client.aclose(drain=False)
    async with here.client(journal=tmp_path / "jobs.db") as client:
        recovering = asyncio.create_task(client.recover(["mine"]))
        await asyncio.sleep(0)
        attached = await client.attach("mine")
        assert {*(await recovering).jobs} <= {attached}
        await attached


async def test_what_cannot_be_written_down_is_not_sent(world: MakeWorld, tmp_path: Path) -> None:
    """With a full disk the job is refused, for the journal's reason, and costs nothing; with room the next one goes."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        journal = client.journal
        assert isinstance(journal, SqliteJournal)
        connection = journal.store.connection
        connection.execute(f"PRAGMA max_page_count = {connection.execute('PRAGMA page_count').fetchone()[0]}")
        job = client.submit(a_request(prompt="x" * 9000))
        with pytest.raises(JournalError) as caught:
            await job
        assert (job.state, caught.value.charged, here.count("img2video")) == (S.REFUSED, False, 0)
        connection.execute("PRAGMA max_page_count = 100000")
        await client.submit(a_request())
    assert len(here.service.ledger.charges) == 1


async def test_an_acceptance_is_on_disk_before_anybody_is_told(world: MakeWorld, tmp_path: Path) -> None:
    """Another program that looks into the file at that very moment finds the service's id."""
    async with world().client(journal=tmp_path / "jobs.db") as client:
        job = client.submit(a_request())
        job_id = await job.submitted()
        with closing(sqlite3.connect(tmp_path / "jobs.db")) as other:
            rows = other.execute("SELECT ref, job_id, state FROM jobs").fetchall()
    assert rows == [(job.ref, job_id, "processing")]


async def test_a_client_with_a_journal_is_entered_first(world: MakeWorld, tmp_path: Path) -> None:
    """Before that, what others have at the service is not known."""
    client = world().client(journal=tmp_path / "jobs.db")
    with pytest.raises(ClientStateError, match="async with"):
        client.submit(a_request())
    await client.aclose()
    here = world()
    async with here.client() as bare:
        with pytest.raises(ClientStateError, match="no journal"):
            await bare.recover(search=True)
    assert here.count("assets") == 0


async def test_a_journal_that_cannot_be_opened(world: MakeWorld, tmp_path: Path) -> None:
    """Says so before anything is submitted."""
    (tmp_path / "jobs.db").write_bytes(b"not a database, certainly not one" * 100)
    with pytest.raises(JournalError, match="not a database"):
        async with world().client(journal=tmp_path / "jobs.db"):
            pytest.fail("it must not get here")
    (tmp_path / "a.db").symlink_to(tmp_path / "a.db")
    with pytest.raises(JournalError, match=r"a\.db"):
        async with world().client(journal=tmp_path / "a.db"):
            pytest.fail("it must not get here")


async def test_what_was_paid_is_told(world: MakeWorld) -> None:
    """A job that was taken and failed, and one whose file is no video, say what they cost; a refused one nothing."""
    failing, unreadable = world(faults=[Rule(Fault.JOB_FAILS)]), world(faults=[Rule(Fault.HTML_AS_MP4)])
    refusing = world(keys=["another"])
    told = []
    for here in (failing, unreadable, refusing):
        async with here.client(prices=PriceList(usd=Decimal("0.25"))) as client:
            job = client.submit(a_request())
            await job.wait()
            told.append(job.exception())
    assert [(type(error), error.charged) for error in told if isinstance(error, ModelsLabError)] == [
        (JobFailedError, None),
        (InvalidVideoError, True),
        (AuthenticationError, False),
    ]
    assert ["$0.25" in str(error) for error in told] == [True, True, False]


async def test_a_video_that_will_be_deleted_says_so(world: MakeWorld) -> None:
    """The service deletes temp files within 24 hours; the video tells that it is one."""
    async with world().client() as client:
        temporary, lasting = await client.generate(a_request(temp=True)), await client.generate(a_request())
    assert (temporary.is_temporary, lasting.is_temporary) == (True, False)


async def test_a_recovery_that_was_cut_short_is_begun_again(
    world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was taken over before it was cancelled is given by the next."""
    here = world()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        await asyncio.gather(*[client.generate(a_request()) for _ in range(3)])
    async with here.client(journal=tmp_path / "jobs.db") as client:
        asked, take_over = list[str](), Recorder.take_over

        async def slow(recorder: Recorder, record: JobRecord, **changes: Any) -> JobRecord | None:
            asked.append(record.ref)
            await asyncio.sleep(10.0 if len(asked) == 3 else 0.0)
            return await take_over(recorder, record, **changes)

        with monkeypatch.context() as patch, pytest.raises(TimeoutError):
            patch.setattr(Recorder, "take_over", slow)
            async with asyncio.timeout(5.0):
                await client.recover()
        assert len((await client.recover()).jobs) == 3


async def test_what_was_resolved_counts_on_the_day_on_which_it_was_sent(world: MakeWorld, tmp_path: Path) -> None:
    """As it does for the next client, which reads the journal."""
    here, now, spent = world(faults=[LOST_REPLY]), 20_000 * 86_400.0, list[Decimal]()
    async with here.client(journal=tmp_path / "jobs.db") as client:
        engine_of(client).recorder.clock = lambda: now
        job = client.submit(a_request(track_id="mine"))
        await job.wait()
    for _ in range(2):
        budget = Budget(usd=1, per="day")
        client = here.client(journal=tmp_path / "jobs.db", budget=budget)
        engine_of(client).recorder.clock = lambda: now + 86_400
        async with client:
            if job.state is S.UNCERTAIN and not spent:
                await client.resolve("mine", id=here.service.ledger.charges[0].job_id)
            spent += [budget.spent(now), budget.spent(now + 86_400)]
    assert spent == [Decimal("0.2"), 0] * 2


async def test_a_budget_is_released_when_the_journal_agrees(world: MakeWorld, tmp_path: Path) -> None:
    """A word that cannot be written down changes nothing, and one that says nothing is refused."""
    here, budget = world(faults=[LOST_REPLY]), Budget(usd=5)
    async with here.client(journal=tmp_path / "jobs.db", budget=budget) as client:
        job = client.submit(a_request())
        await job.wait()
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.resolve(job.ref, id=" ")
        assert isinstance(client.journal, SqliteJournal)
        connection = client.journal.store.connection
        await row(client, job.ref)  # all is written
        connection.execute("PRAGMA query_only = 1")
        with pytest.raises(JournalError):
            await client.resolve(job.ref, lost=True)
        connection.execute("PRAGMA query_only = 0")
        assert budget.held == Decimal("0.2")
        await client.resolve(job.ref, lost=True)
        assert budget.held == 0


async def test_a_video_without_an_id_is_found_by_its_links(world: MakeWorld, tmp_path: Path) -> None:
    """Success at once, without an id, and then the process died: there is nothing to ask for, and no need."""
    path = tmp_path / "jobs.db"
    here = world()
    async with here.client(journal=path) as client:
        video = await client.generate(a_request())
    with sqlite3.connect(path) as other:
        (details,) = other.execute("SELECT details FROM jobs").fetchone()
        known = {name: value for name, value in json.loads(details).items() if name != "video"}
        other.execute("UPDATE jobs SET job_id = NULL, owner = 'gone', details = ?", (json.dumps(known),))
    other.close()
    async with here.client(journal=path) as client:
        (job,) = (await client.recover()).jobs
        assert (await job).url == video.url
        assert client.statistics().in_flight == 0


async def test_a_client_that_does_not_open_leaves_nothing(world: MakeWorld, tmp_path: Path) -> None:
    """A row that cannot be read: the journal is let go of again, for whoever mends it."""
    path = tmp_path / "jobs.db"
    async with world().client(journal=path) as client:
        await client.submit(a_request()).submitted()
        await client.aclose(drain=False)
    with sqlite3.connect(path) as other:
        other.execute("UPDATE jobs SET details = '{'")
    other.close()
    client = world().client(journal=path)
    with pytest.raises(JournalError):
        await client.__aenter__()
    assert not engine_of(client).recorder.is_open
    assert not list(tmp_path.glob("*alive*"))


async def test_a_file_is_saved_though_its_client_was_closed(world: MakeWorld, tmp_path: Path) -> None:
    """What cannot be written down of it any more is told by the log, and no error of the save."""
    client = world().client(journal=tmp_path / "jobs.db")
    async with client:
        job = client.submit(a_request())
        await job
    await engine_of(client).recorder.record_saved(job.ref, "a.mp4")
    assert (await row_of(tmp_path / "jobs.db", client, job.ref)).saved_path is None


async def row_of(path: Path, client: Client, ref: str) -> JobRecord:
    """What a new journal has of a job of an old client."""
    journal = SqliteJournal(path)
    await journal.open()
    record = await journal.find(client.account_id, ref=ref)
    await journal.close()
    assert record is not None
    return record
