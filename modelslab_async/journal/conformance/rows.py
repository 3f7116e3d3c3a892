"""Which rows are written and read back, what is charged, and which notifications and pictures are kept."""

import asyncio
import math
from decimal import Decimal
from typing import Any

from modelslab_async.errors import JournalError
from modelslab_async.journal.base import DURATIONS_OF_KIND, Duration, Row
from modelslab_async.journal.conformance.harness import Check, Harness, S, a_record, expect, record_of, row_of, within
from modelslab_async.protocol.pricing import DAY
from modelslab_async.protocol.record import SENT, Charge, JobRecord, key_of


async def a_row_is_read_as_it_was_written(harness: Harness) -> None:
    """Every field comes back with its value, for this client and for another one."""
    journal, other = await harness.open(), await harness.open()
    full = JobRecord(
        account=harness.account,
        ref="full",
        owner=journal.owner,
        created_at=1.5,
        state=S.READY,
        job_id="77",
        request={"prompt": "zoom in, ünicode \U0001f3ac", "num_frames": 81},
        picture={"source": "path", "where": "/pictures/a.png", "length_bytes": 5, "sha256": "ab"},
        price=Decimal("0.20"),
        charged=True,
        eta=40.5,
        seed=7,
        links=("https://files.invalid/a.mp4", "https://files.invalid/b.mp4"),
        video={"url": "https://files.invalid/a.mp4", "seed": 7, "meta": {}, "generation_time": None},
        error="why",
        error_kind="JobError",
        submitted_at=1764000000.123456,
        accepted_at=1764000001.5,
        ended_at=1764000002.25,
        delivered_at=1764000003.5,
        saved_path="/videos/a.mp4",
        target="/videos/",
        operation="lip-sync",
        is_unpriced=True,
    )
    bare = JobRecord(account=harness.account, ref="bare", owner=journal.owner, created_at=0.1, charged=None)
    expect(await asyncio.gather(journal.append(full), journal.append(bare)), [True, True])
    for reader in (journal, other):
        expect(await reader.find(harness.account, ref="full"), Row(full, is_alive=True))
        expect(await reader.find(harness.account, job_id="77"), Row(full, is_alive=True))
        expect(await reader.find(harness.account, ref="bare"), Row(bare, is_alive=True))
    expect(str((await record_of(harness, other, "full")).price), "0.20")
    expect(await journal.find(f"{harness.account} other", ref="full"), None)


async def a_read_sees_each_earlier_note(harness: Harness) -> None:
    """`note` returns before the record is written, but a later read sees it."""
    journal = await harness.open()
    for state in (S.WAITING, S.CANCELLED):
        journal.note(a_record(harness, journal, "r", state))
        expect((await record_of(harness, journal, "r")).state, state)
    journal.note(a_record(harness, journal, "s"))
    expect([row.record.ref for row in await journal.unfinished(harness.account)], ["s"])
    journal.note(a_record(harness, journal, "t", created_at=9.0))
    expect([record.ref for record in await journal.recent(harness.account, 1)], ["t"])
    journal.note(a_record(harness, journal, "u", S.UNCERTAIN, charged=None))
    expect(len((await journal.charges(harness.account)).in_doubt), 1)


async def notes_and_appends_keep_their_order(harness: Harness) -> None:
    """The last write of a job is the row, also if many writes are queued."""
    journal = await harness.open()
    for _ in range(20):
        for state in (S.WAITING, S.REFUSED):
            journal.note(a_record(harness, journal, "r", state))
    expect(await journal.append(a_record(harness, journal, "r", S.SUBMITTING)), expected=True)
    journal.note(a_record(harness, journal, "r", S.PROCESSING, job_id="77"))
    journal.note(a_record(harness, journal, "r", S.READY, job_id="77"))
    expect((await record_of(harness, journal, "r")).state, S.READY)


async def close_writes_what_is_queued(harness: Harness) -> None:
    """A record that was noted right before `close` is written, and the client is dead for the others after it."""
    journal, other = await harness.open(), await harness.open()
    record = a_record(harness, journal, "r", S.PROCESSING, job_id="77")
    journal.note(record)
    await journal.close()
    expect(await other.find(harness.account, ref="r"), Row(record, is_alive=False))


async def a_closed_journal_raises_and_can_be_opened_again(harness: Harness) -> None:
    """A journal that is not open raises JournalError. Each `open` draws another owner. An open one is not opened."""
    journal, other = await harness.open(), await harness.open()
    owner = journal.owner
    expect(owner != other.owner, expected=True)
    await _expect_error(journal.open())
    await journal.close()
    await _expect_error(journal.append(a_record(harness, journal, "r")))
    await _expect_error(journal.find(harness.account, ref="r"))
    await journal.open()
    expect(journal.owner not in (owner, other.owner), expected=True)
    expect(await journal.append(a_record(harness, journal, "r")), expected=True)
    await journal.close()


async def a_row_that_cannot_be_written_harms_no_other(harness: Harness) -> None:
    """A text that the storage cannot hold raises JournalError with a hint, or is written. Later writes succeed."""
    journal = await harness.open()
    odd: tuple[dict[str, Any], ...] = (
        {"error": "a lone surrogate \ud800"},
        {"error": "a null \0"},
        {"request": {"prompt": "a null \0 \ud800"}},
        {"submitted_at": float("nan")},
        {"request": {"guidance_scale": float("nan")}},
        {"request": {"extra": object()}},
    )
    for number, changes in enumerate(odd):
        try:
            await journal.append(a_record(harness, journal, f"odd {number}", **changes))
        except JournalError as error:
            expect("(hint: " in str(error), expected=True, of=str(error))
        journal.note(a_record(harness, journal, f"odd note {number}", **changes))
        good = a_record(harness, journal, f"good {number}")
        expect(await journal.append(good), expected=True)
        expect(await record_of(harness, journal, good.ref), good)


async def unfinished_jobs_are_those_that_need_a_client(harness: Harness) -> None:
    """Waiting, submitted, running, uncertain and timed-out jobs, and videos neither saved nor acknowledged.

    The oldest comes first.
    """
    journal = await harness.open()
    for number, state in enumerate(S):
        await journal.append(a_record(harness, journal, state.value, state, created_at=-float(number)))
    await journal.append(a_record(harness, journal, "saved", S.READY, saved_path="/videos/a.mp4"))
    await journal.append(a_record(harness, journal, "acknowledged", S.READY, delivered_at=5.0))
    found = [row.record.state for row in await journal.unfinished(harness.account)]
    expect(set(found), {S.WAITING, S.SUBMITTING, S.PROCESSING, S.READY, S.UNCERTAIN, S.TIMED_OUT})
    expect(found, [state for state in reversed(S) if state in found])
    without_ready = [row.record.state for row in await journal.unfinished(harness.account, ready=False)]
    expect(without_ready, [state for state in found if state is not S.READY])
    expect(list(await journal.unfinished(f"{harness.account} other")), [])


async def jobs_of_dead_clients_are_orphaned(harness: Harness) -> None:
    """The unfinished jobs of clients that are gone are listed, the oldest first. Those of live clients are not."""
    journal, other = await harness.open(), await harness.open()
    await journal.append(a_record(harness, journal, "mine", S.PROCESSING))
    await other.append(a_record(harness, other, "second", S.PROCESSING, created_at=3.0, job_id="77"))
    await other.append(a_record(harness, other, "first", created_at=2.0))
    await other.append(a_record(harness, other, "ended", S.FAILED, created_at=4.0))
    expect(list(await journal.orphaned(harness.account)), [])
    await other.close()
    expect([record.ref for record in await journal.orphaned(harness.account)], ["first", "second"])
    expect(list(await journal.orphaned(f"{harness.account} other")), [])


async def rows_say_whether_their_owner_is_alive(harness: Harness) -> None:
    """A client is alive from `open` until it dies, for itself and for all others."""
    journal, other = await harness.open(), await harness.open()
    await journal.append(a_record(harness, journal, "mine", S.PROCESSING))
    await journal.append(a_record(harness, other, "theirs", S.PROCESSING, created_at=2.0))
    await journal.append(a_record(harness, other, "a stranger's", S.PROCESSING, created_at=3.0, owner="stranger"))
    for reader in (journal, other):
        alive = [row.is_alive for row in await reader.unfinished(harness.account)]
        expect(alive, [True, True, False])
    await harness.kill(other)
    expect([row.is_alive for row in await journal.unfinished(harness.account)], [True, False, False])
    expect((await row_of(harness, journal, "theirs")).is_alive, expected=False)
    expect((await row_of(harness, journal, "mine")).is_alive, expected=True)


async def a_ref_is_sent_once(harness: Harness) -> None:
    """A ref that was, or may have been, sent belongs to its job; a ref that was certainly not sent is free."""
    journal, other = await harness.open(), await harness.open()
    intruders: tuple[tuple[str, dict[str, Any]], ...] = (
        ("another job", {"created_at": 2.0}),
        ("another owner", {"owner": other.owner}),
    )
    for state in S:
        for name, intruder in intruders:
            ref = f"{state} {name}"
            mine = a_record(harness, journal, ref, state)
            theirs = a_record(harness, journal, ref, S.SUBMITTING, **intruder)
            await journal.append(mine)
            expect(await other.append(theirs), state not in SENT, of=ref)
            expect(await record_of(harness, journal, ref), mine if state in SENT else theirs, of=ref)


async def a_ref_is_free_as_soon_as_its_job_was_refused(harness: Harness) -> None:
    """The end of a job is written even if another job with its ref comes right after, and that job may be sent."""
    journal = await harness.open()
    expect(await journal.append(a_record(harness, journal, "r", S.SUBMITTING)), expected=True)
    journal.note(a_record(harness, journal, "r", S.REFUSED))
    expect(await journal.append(a_record(harness, journal, "r", S.SUBMITTING, created_at=2.0)), expected=True)


async def two_jobs_of_an_account_never_share_an_id(harness: Harness) -> None:
    """An id that another row has is not written, whether the row is new or known, owned or taken over."""
    journal = await harness.open()
    first = a_record(harness, journal, "first", S.PROCESSING, job_id="77")
    expect(await journal.append(first), expected=True)
    for state in (None, S.WAITING, S.SUBMITTING, S.UNCERTAIN, S.PROCESSING):
        for take_over in (None, "dead"):
            ref = f"{state} {take_over}"
            before = a_record(harness, journal, ref, state, owner=take_over or journal.owner) if state else None
            if before:
                expect(await journal.append(before), expected=True, of=ref)
            second = a_record(harness, journal, ref, S.PROCESSING, job_id="77")
            expect(await journal.append(second, take_over=take_over), expected=False, of=ref)
            expect(await journal.find(harness.account, ref=ref), before and Row(before, take_over is None), of=ref)
            expect(await journal.append(second._replace(job_id=ref), take_over=take_over), expected=True, of=ref)
    expect(await journal.find(harness.account, job_id="77"), Row(first, is_alive=True))


async def two_writes_at_once_do_not_share_an_id(harness: Harness) -> None:
    """Of two acceptances with the same id, one is written, whatever their order and their clients."""
    journal, other = await harness.open(), await harness.open()
    mine = [a_record(harness, journal, ref, S.PROCESSING, job_id="77") for ref in ("one", "two")]
    expect(sorted(await asyncio.gather(*map(journal.append, mine))), [False, True])
    clients = {"three": journal, "four": other}
    writes = [each.append(a_record(harness, each, ref, S.PROCESSING, job_id="78")) for ref, each in clients.items()]
    expect(sorted(await asyncio.gather(*writes)), [False, True])


async def an_id_belongs_to_its_row_and_its_account(harness: Harness) -> None:
    """A row keeps its id, another account may have the same id, and any number of rows may have no id."""
    journal = await harness.open()
    for state in (S.PROCESSING, S.READY):
        expect(await journal.append(a_record(harness, journal, "r", state, job_id="77")), expected=True)
    elsewhere = a_record(harness, journal, "r", S.PROCESSING, job_id="77", account=f"{harness.account} other")
    expect(await journal.append(elsewhere), expected=True)
    for number in range(2):
        expect(await journal.append(a_record(harness, journal, f"none {number}", S.UNCERTAIN)), expected=True)


async def charges_are_what_was_or_may_have_been_paid(harness: Harness) -> None:
    """Accepted and uncertain jobs with their prices; neither refused jobs nor jobs that were never sent."""
    journal, other = await harness.open(), await harness.open()
    taken = {"charged": True, "submitted_at": 90.0, "accepted_at": 100.0, "price": Decimal("0.3")}
    rows = [
        a_record(harness, journal, "taken", S.READY, **taken),
        a_record(harness, journal, "failed", S.FAILED, submitted_at=90.0, accepted_at=100.0, charged=None),
        a_record(harness, journal, "doubt", S.UNCERTAIN, charged=None, submitted_at=110.0),
        a_record(harness, journal, "no", S.REFUSED, charged=False, submitted_at=120.0),
        a_record(harness, journal, "waits", S.WAITING),
    ]
    await asyncio.gather(*map(journal.append, rows))
    for reader in (journal, other):
        found = await reader.charges(harness.account)
        expect(dict(found.counts), {Decimal("0.3"): 1, Decimal("0.2"): 1})
        expect(list(found.in_doubt), [Charge(key_of(harness.account, "doubt", 1.0), 110.0, Decimal("0.2"), False)])
    expect((await journal.charges(harness.account)).storage, (await other.charges(harness.account)).storage)
    nothing = await journal.charges(f"{harness.account} other")
    expect((dict(nothing.counts), list(nothing.in_doubt)), ({}, []))


async def charges_follow_each_change_of_a_row(harness: Harness) -> None:
    """What counts is the job's last state: as it is accepted, fails, or turns out not to be charged."""
    journal = await harness.open()
    job = a_record(harness, journal, "r", S.SUBMITTING, charged=None, submitted_at=90.0)
    accepted: dict[str, Any] = {"job_id": "77", "accepted_at": 100.0, "submitted_at": 90.0}
    changes: tuple[tuple[JobRecord, int, int], ...] = (
        (job, 0, 1),
        (job._replace(state=S.PROCESSING, charged=True, **accepted), 1, 0),
        (job._replace(state=S.FAILED, charged=None, **accepted), 1, 0),
        (job._replace(state=S.FAILED, charged=False, **accepted), 0, 0),
        (job._replace(state=S.READY, charged=True, price=Decimal("0.3"), **accepted), 1, 0),
    )
    for record, counted, in_doubt in changes:
        expect(await journal.append(record), expected=True)
        found = await journal.charges(harness.account)
        counts = {usd: count for usd, count in found.counts.items() if count}
        expect(counts, {record.price: 1} if counted else {}, of=record.state)
        expect(len(found.in_doubt), in_doubt, of=record.state)


async def charges_count_from_a_day_and_without_known_jobs(harness: Harness) -> None:
    """Accepted jobs of earlier days are left out, and those that the caller names. A doubt always counts."""
    journal = await harness.open()
    rows = [
        a_record(
            harness, journal, f"r{day}", S.READY, charged=True, accepted_at=(day + 0.5) * DAY, created_at=day + 0.1
        )
        for day in range(4)
    ]
    rows.append(a_record(harness, journal, "doubt", S.UNCERTAIN, charged=None, submitted_at=110.0))
    await asyncio.gather(*map(journal.append, rows))
    known = [key_of(harness.account, ref, created_at) for ref, created_at in (("r0", 0.1), ("r2", 2.1), ("r3", 9.0))]
    for day, apart_from, counted in ((0, (), 4), (2, (), 2), (5, (), 0), (0, known, 2), (2, known, 1)):
        found = await journal.charges(harness.account, since=float(day * DAY), apart_from=apart_from)
        expect(sum(found.counts.values()), counted, of=(day, apart_from))
        expect(len(found.in_doubt), 1, of=day)


async def many_jobs_are_found_by_their_refs(harness: Harness) -> None:
    """Each ref gives its row, a ref without a job gives none, and an id of the service is no ref."""
    journal, other = await harness.open(), await harness.open()
    rows = [a_record(harness, journal, f"r{number}", S.PROCESSING, job_id=f"j{number}") for number in range(600)]
    await asyncio.gather(*map(journal.append, rows[:599]))
    journal.note(rows[599])
    wanted = [*(row.ref for row in rows), "none", "j1", "r1"]
    expect(dict(await journal.find_all(harness.account, wanted)), {row.ref: Row(row, is_alive=True) for row in rows})
    expect(dict(await other.find_all(f"{harness.account} other", wanted)), {})
    expect(dict(await other.find_all(harness.account, [])), {})


async def a_ref_comes_before_an_id(harness: Harness) -> None:
    """A search for a ref or an id finds the job with the ref, also if the id of another job equals it."""
    journal = await harness.open()
    await journal.append(a_record(harness, journal, "other", S.PROCESSING, job_id="77"))
    await journal.append(a_record(harness, journal, "77"))
    for wanted, found in (("77", "77"), ("other", "other")):
        row = await journal.find(harness.account, ref=wanted, job_id=wanted)
        expect(row and row.record.ref, found)
    expect(await journal.find(harness.account, ref="78", job_id="78"), None)
    expect(await journal.find(harness.account), None)


async def the_newest_jobs_come_first(harness: Harness) -> None:
    """`recent` returns the last jobs, and no more than were asked for."""
    journal = await harness.open()
    for number, created_at in enumerate((3.0, 1.0, 2.0)):
        await journal.append(a_record(harness, journal, f"r{number}", created_at=created_at))
    expect([record.ref for record in await journal.recent(harness.account, 2)], ["r0", "r2"])


async def a_notification_is_returned_once_with_the_last_id(harness: Harness) -> None:
    """If a webhook is called twice, the notification has the last id that was named. A call without one loses none."""
    journal, other = await harness.open(), await harness.open()
    record = a_record(harness, journal, "r")
    calls: tuple[tuple[tuple[str | None, ...], str | None], ...] = (
        ((None,), None),
        (("j-1", None), "j-1"),
        ((None, "j-1"), "j-1"),
        (("j-1", "j-2"), "j-2"),
    )
    for job_ids, delivered in calls:
        for job_id in job_ids:
            await other.deliver(record, job_id)
        expect(list(await other.delivered(harness.account)), [], of="the owner is alive")
        expect(list(await journal.delivered(harness.account)), [("r", delivered)])
        expect(list(await journal.delivered(harness.account)), [])


async def a_dead_clients_notifications_go_to_one_other(harness: Harness) -> None:
    """They are returned once. Those of another account stay."""
    journal, dead = await harness.open(), await harness.open()
    await journal.deliver(a_record(harness, dead, "r"), "77")
    await journal.deliver(a_record(harness, dead, "r", account=f"{harness.account} other"), "78")
    await harness.kill(dead)
    expect(list(await journal.delivered(harness.account)), [("r", "77")])
    expect(list(await journal.delivered(harness.account)), [])
    expect(list(await journal.delivered(f"{harness.account} other")), [("r", "78")])


async def a_change_by_another_client_ends_the_wait(harness: Harness) -> None:
    """`wait_for_change` returns soon after another client wrote or notified, also if that was before the wait."""
    journal, other = await harness.open(), await harness.open()
    record = a_record(harness, other, "r", S.PROCESSING, job_id="77")
    await journal.wait_for_change(0.3)  # what came with opening
    await other.append(record)
    await within(10, journal.wait_for_change(60))
    await journal.wait_for_change(0.3)
    waiting = asyncio.ensure_future(within(10, journal.wait_for_change(60)))
    await asyncio.sleep(0)
    await other.deliver(a_record(harness, journal, "mine"), "78")
    await waiting


async def a_wait_for_change_ends_in_time(harness: Harness) -> None:
    """It returns after the time that was named although nothing changed."""
    journal = await harness.open()
    for _ in range(3):
        await within(10, journal.wait_for_change(0.05))


async def a_picture_is_kept_until_its_job_was_sent(harness: Harness) -> None:
    """Another client can read it while the job waits, also after a refusal for want of a slot. Then it is dropped.

    A journal that keeps no pictures returns None. Two jobs may have the same picture.
    """
    journal, other = await harness.open(), await harness.open()
    picture = bytes(range(256)) * 10
    jobs = [a_record(harness, journal, ref) for ref in ("one", "two")]
    for job in jobs:
        journal.note(job)
        await journal.keep_picture(job, picture)
    kept = picture if journal.keeps_pictures else None
    for job in jobs:
        expect(await other.picture(job), kept)
    expect(await other.picture(a_record(harness, journal, "three")), None)
    one, two = jobs
    for state in (S.SUBMITTING, S.WAITING):
        await journal.append(one._replace(state=state))
    expect(await other.picture(one), kept)
    for state in (S.SUBMITTING, S.PROCESSING):
        await journal.append(one._replace(state=state))
    expect(await other.picture(one), None)
    expect(await other.picture(two), kept)
    await journal.append(two._replace(state=S.CANCELLED))
    expect(await other.picture(two), None)


async def only_jobs_that_are_over_are_pruned(harness: Harness) -> None:
    """Refused, cancelled and failed jobs, and videos that were saved or acknowledged, if they ended before the time.

    Neither unfinished jobs nor those whose reply was lost. The ones that remain are as they were.
    """
    journal, other = await harness.open(), await harness.open()
    taken: dict[str, Any] = {"charged": True, "accepted_at": 2.0, "ended_at": 3.0}
    over = [
        a_record(harness, journal, "refused", S.REFUSED, ended_at=2.0),
        a_record(harness, journal, "cancelled", S.CANCELLED),
        a_record(harness, journal, "failed", S.FAILED, **{**taken, "charged": None}),
        a_record(harness, journal, "saved", S.READY, saved_path="/videos/a.mp4", **taken),
        a_record(harness, journal, "acknowledged", S.READY, delivered_at=5.0, created_at=2.0, **taken),
        *(a_record(harness, journal, f"many {n}", S.CANCELLED, created_at=n / 1000) for n in range(1200)),
    ]
    kept = [
        *(a_record(harness, journal, state, state) for state in S if state not in (S.REFUSED, S.CANCELLED, S.FAILED)),
        a_record(harness, journal, "in doubt", S.FAILED, charged=None),
        a_record(harness, journal, "recent", S.READY, saved_path="/videos/b.mp4", **{**taken, "ended_at": 50.0}),
        a_record(harness, journal, "new", S.REFUSED, created_at=60.0),
    ]
    elsewhere = a_record(harness, journal, "refused", S.REFUSED, account=f"{harness.account} other")
    await asyncio.gather(*map(journal.append, [*over, *kept, elsewhere]))
    archived = list[JobRecord]()
    expect(await other.prune(harness.account, before=50.0, archive=archived.extend), len(over))
    expect({record.ref: record for record in archived}, {record.ref: record for record in over})
    expect(len(archived), len(over))
    for record in over:
        expect(await journal.find(harness.account, ref=record.ref), None, of=record.ref)
    for record in kept:
        expect(await record_of(harness, journal, record.ref), record)
    expect(await journal.find(elsewhere.account, ref="refused"), Row(elsewhere, is_alive=True))
    expect(await journal.prune(harness.account, before=50.0), 0)


async def a_budget_counts_what_was_pruned(harness: Harness) -> None:
    """The charges of pruned jobs count in `charges` and in `claim`, as if the jobs were still there."""
    journal = await harness.open()
    at = 3.5 * DAY
    jobs = [
        a_record(harness, journal, "saved", S.READY, charged=True, accepted_at=at, ended_at=at, saved_path="/a.mp4"),
        a_record(harness, journal, "failed", S.FAILED, charged=None, accepted_at=at, ended_at=at, price=Decimal("0.3")),
        a_record(harness, journal, "refused", S.REFUSED, ended_at=at),
    ]
    await asyncio.gather(*map(journal.append, jobs))
    before = await journal.charges(harness.account)
    for _ in range(2):
        for day, counted in ((0, 2), (3, 2), (4, 0)):
            found = await journal.charges(harness.account, since=float(day * DAY))
            expect(sum(found.counts.values()), counted, of=day)
        expect(await journal.charges(harness.account), before)
        await journal.prune(harness.account, before=4.0 * DAY)
    expect(await journal.find(harness.account, ref="saved"), None)
    again = jobs[0]._replace(state=S.PROCESSING, created_at=5.0, saved_path=None)
    expect(await journal.append(again), expected=True, of="the ref is free")
    expect(sum((await journal.charges(harness.account)).counts.values()), 3)


async def an_archive_that_fails_deletes_nothing(harness: Harness) -> None:
    """The error of the archive is raised, and the jobs are still there."""
    journal = await harness.open()
    await journal.append(a_record(harness, journal, "r", S.REFUSED))

    def fail(_: object) -> None:
        raise OSError("the disk is full")

    try:
        await journal.prune(harness.account, before=9.0, archive=fail)
    except OSError as error:
        expect(str(error), "the disk is full")
    expect((await record_of(harness, journal, "r")).state, S.REFUSED)


async def the_latest_durations_of_each_kind_are_kept(harness: Harness) -> None:
    """A later client reads them in their order, also infinite ones. Those of another service are apart."""
    journal, service = await harness.open(), harness.account
    first = Duration(service, "video", '["a"]', 1.0, math.inf, 0.5, None)
    many = [Duration(service, "video", '["b"]', float(number), number + 1.0, 1.0, 40.0) for number in range(200)]
    for duration in (first, *many, first._replace(service="another"), first._replace(operation="picture")):
        journal.note_duration(duration)
    await journal.append(a_record(harness, journal, "r"))
    await journal.close()
    later = await harness.open()
    expect(list(await later.durations(service, "video")), [first, *many[-DURATIONS_OF_KIND:]])
    expect(list(await later.durations(service, "none")), [])


async def _expect_error(awaitable: Any) -> None:
    try:
        await awaitable
    except JournalError as error:
        expect("(hint: " in str(error), expected=True, of=str(error))
    else:
        raise AssertionError("JournalError was expected")


CHECKS: tuple[Check, ...] = (
    a_row_is_read_as_it_was_written,
    a_read_sees_each_earlier_note,
    notes_and_appends_keep_their_order,
    close_writes_what_is_queued,
    a_closed_journal_raises_and_can_be_opened_again,
    a_row_that_cannot_be_written_harms_no_other,
    unfinished_jobs_are_those_that_need_a_client,
    jobs_of_dead_clients_are_orphaned,
    rows_say_whether_their_owner_is_alive,
    a_ref_is_sent_once,
    a_ref_is_free_as_soon_as_its_job_was_refused,
    two_jobs_of_an_account_never_share_an_id,
    two_writes_at_once_do_not_share_an_id,
    an_id_belongs_to_its_row_and_its_account,
    charges_are_what_was_or_may_have_been_paid,
    charges_follow_each_change_of_a_row,
    charges_count_from_a_day_and_without_known_jobs,
    many_jobs_are_found_by_their_refs,
    a_ref_comes_before_an_id,
    the_newest_jobs_come_first,
    a_notification_is_returned_once_with_the_last_id,
    a_dead_clients_notifications_go_to_one_other,
    a_change_by_another_client_ends_the_wait,
    a_wait_for_change_ends_in_time,
    a_picture_is_kept_until_its_job_was_sent,
    only_jobs_that_are_over_are_pruned,
    a_budget_counts_what_was_pruned,
    an_archive_that_fails_deletes_nothing,
    the_latest_durations_of_each_kind_are_kept,
)
