"""Claims of slots: the account's cap, the budget, and what is written."""

import asyncio
import math
import time
from decimal import Decimal

from modelslab_async.errors import BudgetExceededError
from modelslab_async.journal.base import Journal, Row
from modelslab_async.journal.conformance.harness import (
    Check,
    Harness,
    S,
    a_record,
    an_intent,
    expect,
    record_of,
    row_of,
)
from modelslab_async.protocol.claims import Ask, Claim, Claimed, Follow, NoSlot
from modelslab_async.protocol.pricing import DAY, SpendingLimit
from modelslab_async.protocol.record import SLOT_HOLD


async def claim(harness: Harness, journal: Journal, ref: str, ask: Ask) -> Claim:
    """Claim a slot for a new job."""
    return await journal.claim(an_intent(harness, journal, ref), ask)


async def is_claimed(harness: Harness, journal: Journal, ref: str, ask: Ask) -> bool:
    """Claim a slot for a new job, and return whether it was given."""
    return isinstance(await claim(harness, journal, ref, ask), Claimed)


async def a_claim_that_is_given_is_durable(harness: Harness) -> None:
    """Another client reads the row as SUBMITTING as soon as `claim` returned, also if the claiming client is dead."""
    journal, other = await harness.open(), await harness.open()
    intent = an_intent(harness, journal, "r")
    expect(await journal.claim(intent, Ask(slots=3)), Claimed(usable=3))
    expect(await other.find(harness.account, ref="r"), Row(intent, is_alive=True))
    await harness.kill(journal)
    expect(await other.find(harness.account, ref="r"), Row(intent, is_alive=False))


async def a_claim_in_vain_leaves_the_job_waiting(harness: Harness) -> None:
    """The row says WAITING and not charged, whether it was noted before or not. It has no time of a submit."""
    journal = await harness.open()
    for ref in ("noted", "new"):
        intent = an_intent(harness, journal, ref)
        waiting = intent._replace(state=S.WAITING, submitted_at=None, charged=False)
        if ref == "noted":
            journal.note(waiting)
        expect(await journal.claim(intent, Ask(slots=2, held=2)), NoSlot(usable=2), of=ref)
        expect(await record_of(harness, journal, ref), waiting, of=ref)


async def a_claim_in_vain_leaves_a_waiting_row_alone(harness: Harness) -> None:
    """Two clients may ask for the same ref. If each claim in vain wrote the row, they would wake each other forever."""
    journal, other = await harness.open(), await harness.open()
    intent = an_intent(harness, other, "r")
    waiting = intent._replace(state=S.WAITING, submitted_at=None, charged=False)
    await other.append(waiting)
    expect(await claim(harness, journal, "r", Ask(slots=2, held=2)), NoSlot(usable=2))
    expect(await record_of(harness, journal, "r"), waiting)


async def a_claim_comes_after_earlier_notes(harness: Harness) -> None:
    """A note that was queued before does not replace the row that the claim wrote."""
    journal = await harness.open()
    for state in (S.WAITING, S.REFUSED, S.WAITING):
        journal.note(a_record(harness, journal, "r", state))
    expect(await is_claimed(harness, journal, "r", Ask(slots=1)), expected=True)
    expect((await record_of(harness, journal, "r")).state, S.SUBMITTING)


async def the_cap_is_kept_over_all_clients(harness: Harness) -> None:
    """However many clients claim at once, all slots are given, and no more."""
    journals = [await harness.open() for _ in range(4)]
    held = [0] * len(journals)
    for turn in range(6):
        claims = [
            is_claimed(harness, journal, f"{turn} {index}", Ask(slots=5, held=held[index]))
            for index, journal in enumerate(journals)
        ]
        for index, given in enumerate(await asyncio.gather(*claims)):
            held[index] += given
    expect(sum(held), 5)
    states = [row.record.state for row in await journals[0].unfinished(harness.account)]
    expect(states.count(S.SUBMITTING), 5)


async def concurrent_claims_share_one_free_slot(harness: Harness) -> None:
    """Of claims at the same time for one free slot, one gets it."""
    journals = [await harness.open() for _ in range(5)]
    for index, each in enumerate(journals[:2]):
        await each.append(an_intent(harness, each, f"held {index}"))
    held = (1, 1, 0, 0, 0)
    asks = [Ask(slots=3, held=count) for count in held]
    claims = [
        is_claimed(harness, each, f"r{index}", ask)
        for index, (each, ask) in enumerate(zip(journals, asks, strict=True))
    ]
    expect(sum(await asyncio.gather(*claims)), 1)


async def a_slot_is_free_again_when_its_job_ends(harness: Harness) -> None:
    """Jobs of another client hold their slots until the row says that they ended, whatever the end is."""
    journal, other = await harness.open(), await harness.open()
    for end in (S.READY, S.FAILED, S.REFUSED, S.TIMED_OUT, S.WAITING):
        mine = f"after {end}"
        intent = an_intent(harness, other, end)
        expect(isinstance(await other.claim(intent, Ask(slots=1)), Claimed), expected=True, of=end)
        expect(await is_claimed(harness, journal, mine, Ask(slots=1)), expected=False, of=end)
        if end is not S.WAITING:
            intent = intent._replace(state=S.PROCESSING, job_id=end, accepted_at=time.time())
            expect(await other.append(intent), expected=True, of=end)
            expect(await is_claimed(harness, journal, mine, Ask(slots=1)), expected=False, of=end)
        expect(await other.append(intent._replace(state=end)), expected=True, of=end)
        expect(await is_claimed(harness, journal, mine, Ask(slots=1)), expected=True, of=end)
        await journal.append(an_intent(harness, journal, mine, state=S.REFUSED))


async def a_dead_clients_jobs_hold_their_slots_for_a_time(harness: Harness) -> None:
    """The service may still run them: for SLOT_HOLD seconds after they were sent or accepted, and no longer."""
    journal, dead = await harness.open(), await harness.open()
    ago = time.time() - SLOT_HOLD - 30
    recent = {"accepted_at": time.time(), "job_id": "77"}
    await dead.append(an_intent(harness, dead, "sent long ago", submitted_at=ago))
    await dead.append(an_intent(harness, dead, "accepted long ago", state=S.PROCESSING, job_id="76", accepted_at=ago))
    await dead.append(an_intent(harness, dead, "sent", submitted_at=time.time()))
    await dead.append(an_intent(harness, dead, "accepted", state=S.PROCESSING, submitted_at=ago, **recent))
    expect(await is_claimed(harness, journal, "r", Ask(slots=4)), expected=False)  # it is alive, so it sees each end
    await harness.kill(dead)
    expect(await is_claimed(harness, journal, "r", Ask(slots=2)), expected=False)
    expect(await is_claimed(harness, journal, "r", Ask(slots=3)), expected=True)


async def an_uncertain_job_holds_its_slot_for_a_time(harness: Harness) -> None:
    """The service may run a job whose reply was lost, for SLOT_HOLD seconds after it was sent."""
    journal, other = await harness.open(), await harness.open()
    await other.append(an_intent(harness, other, "doubt", state=S.UNCERTAIN))
    expect(await is_claimed(harness, journal, "r", Ask(slots=1)), expected=False)
    ago = time.time() - SLOT_HOLD - 30
    await other.append(an_intent(harness, other, "doubt", state=S.UNCERTAIN, submitted_at=ago))
    expect(await is_claimed(harness, journal, "r", Ask(slots=1)), expected=True)


async def an_uncertain_job_that_a_client_took_over_holds_its_slot(harness: Harness) -> None:
    """The client that took the job over does not count it in `ask`, and gets no slot for it either."""
    journal, dead = await harness.open(), await harness.open()
    sent = an_intent(harness, dead, "lost")
    await dead.append(sent)
    await harness.kill(dead)
    doubted = sent._replace(owner=journal.owner, state=S.UNCERTAIN)
    expect(await journal.append(doubted, take_over=dead.owner), expected=True)
    expect(await is_claimed(harness, journal, "r", Ask(slots=1)), expected=False)
    expect(await is_claimed(harness, journal, "r", Ask(slots=2)), expected=True)


async def a_dead_clients_submit_delays_no_other(harness: Harness) -> None:
    """While refusals keep the cap low, one submit goes out at a time. A dead client's is not waited for."""
    journal, dead = await harness.open(), await harness.open()
    refused, sent = (an_intent(harness, dead, ref) for ref in ("refused", "sent"))
    await dead.append(refused)
    await dead.put_back(refused._replace(state=S.WAITING), Ask(slots=3, held=2), wait=1.0, maximum=None)
    await harness.let_pass(2.0)
    await dead.append(sent)
    expect(await is_claimed(harness, journal, "r", Ask(slots=3)), expected=False)
    await harness.kill(dead)
    expect(await is_claimed(harness, journal, "r", Ask(slots=3)), expected=True)


async def a_ref_that_was_sent_is_followed(harness: Harness) -> None:
    """A claim for a ref whose job was, or may have been, sent returns that job's row and changes nothing."""
    journal, other = await harness.open(), await harness.open()
    for state in (S.SUBMITTING, S.PROCESSING, S.UNCERTAIN, S.READY, S.FAILED, S.TIMED_OUT):
        theirs = a_record(harness, other, state, state, created_at=2.0)
        await other.append(theirs)
        expect(await claim(harness, journal, state, Ask(slots=9)), Follow(theirs, is_alive=True), of=state)
        expect(await record_of(harness, journal, state), theirs, of=state)
    mine = a_record(harness, journal, "mine", S.PROCESSING, created_at=3.0)
    await journal.append(mine)
    expect(await claim(harness, journal, "mine", Ask(slots=9)), Follow(mine, is_alive=True))
    await harness.kill(other)
    followed = await row_of(harness, journal, S.PROCESSING)
    expect(await claim(harness, journal, S.PROCESSING, Ask(slots=9)), Follow(followed.record, is_alive=False))


async def a_waiting_job_of_another_client_can_be_claimed(harness: Harness) -> None:
    """The ref is free while its job is certainly not sent. The row is then the claiming client's."""
    journal, other = await harness.open(), await harness.open()
    for state in (S.WAITING, S.CANCELLED, S.REFUSED):
        await other.append(a_record(harness, other, state, state, created_at=2.0))
        expect(await is_claimed(harness, journal, state, Ask(slots=9)), expected=True, of=state)
        expect((await record_of(harness, other, state)).owner, journal.owner, of=state)


async def a_budget_is_kept_over_all_clients(harness: Harness) -> None:
    """The jobs of all clients that were, or may have been, charged count. A claim beyond the limit writes nothing."""
    journals = [await harness.open() for _ in range(3)]
    ask = Ask(slots=9, spending=_spending(usd=Decimal("1.00")))
    for number in range(5):
        journal = journals[number % 3]
        intent = an_intent(harness, journal, f"r{number}")
        expect(isinstance(await journal.claim(intent, ask), Claimed), expected=True, of=number)
        if number % 2:
            accepted = intent._replace(state=S.PROCESSING, job_id=f"{number}", accepted_at=time.time(), charged=True)
            await journal.append(accepted)
    for journal in journals:
        await _expect_budget_exceeded(harness, journal, "beyond", ask)
        expect(await journal.find(harness.account, ref="beyond"), None)
    journal = journals[0]
    await journal.append(an_intent(harness, journal, "r0", state=S.REFUSED, charged=False))
    expect(await is_claimed(harness, journals[1], "again", ask), expected=True)
    await _expect_budget_exceeded(harness, journals[2], "beyond", ask)


async def concurrent_claims_stay_within_the_budget(harness: Harness) -> None:
    """Of ten claims at once, as many are given as the budget allows."""
    journals = [await harness.open() for _ in range(5)]
    ask = Ask(slots=50, spending=_spending(jobs=3))
    claims = [claim(harness, journals[number % 5], f"r{number}", ask) for number in range(10)]
    answers = await asyncio.gather(*claims, return_exceptions=True)
    expect([each for each in answers if not isinstance(each, Claimed | BudgetExceededError)], [])
    expect(sum(isinstance(each, Claimed) for each in answers), 3)


async def a_budget_of_a_day_counts_from_its_beginning(harness: Harness) -> None:
    """Jobs that were accepted before `since` do not count, also if they failed. A job in doubt always counts."""
    journal, other = await harness.open(), await harness.open()
    since = time.time() // DAY * DAY
    yesterday = {"submitted_at": since - 20, "accepted_at": since - 10, "charged": True}
    await other.append(a_record(harness, other, "yesterday", S.READY, **yesterday))
    failed = {**yesterday, "charged": None, "ended_at": since - 5}
    await other.append(a_record(harness, other, "failed yesterday", S.FAILED, **failed))
    await other.append(a_record(harness, other, "doubt", S.UNCERTAIN, submitted_at=since - 500, charged=None))
    await _expect_budget_exceeded(harness, journal, "r", Ask(slots=9, spending=_spending(jobs=1, since=since)))
    two = Ask(slots=9, spending=_spending(jobs=2, since=since))
    expect(await is_claimed(harness, journal, "r", two), expected=True)


async def one_account_does_not_count_for_another(harness: Harness) -> None:
    """Slots, refusals and charges belong to an account."""
    journal, other = await harness.open(), await harness.open()
    elsewhere = an_intent(harness, other, "r", account=f"{harness.account} other")
    await other.append(elsewhere)
    await other.put_back(elsewhere._replace(state=S.WAITING), Ask(slots=1), wait=60.0, maximum=1)
    await other.append(elsewhere._replace(state=S.SUBMITTING))
    ask = Ask(slots=1, spending=_spending(jobs=1))
    expect(await claim(harness, journal, "r", ask), Claimed(usable=1))


def _spending(usd: Decimal | None = None, jobs: int | None = None, since: float = -math.inf) -> SpendingLimit:
    return SpendingLimit(usd, jobs, None, Decimal("0.2"), 0, since)


async def _expect_budget_exceeded(harness: Harness, journal: Journal, ref: str, ask: Ask) -> None:
    try:
        answer = await claim(harness, journal, ref, ask)
    except BudgetExceededError:
        return
    raise AssertionError(f"BudgetExceededError was expected, not {answer!r}")


CHECKS: tuple[Check, ...] = (
    a_claim_that_is_given_is_durable,
    a_claim_in_vain_leaves_the_job_waiting,
    a_claim_in_vain_leaves_a_waiting_row_alone,
    a_claim_comes_after_earlier_notes,
    the_cap_is_kept_over_all_clients,
    concurrent_claims_share_one_free_slot,
    a_slot_is_free_again_when_its_job_ends,
    a_dead_clients_jobs_hold_their_slots_for_a_time,
    an_uncertain_job_holds_its_slot_for_a_time,
    an_uncertain_job_that_a_client_took_over_holds_its_slot,
    a_dead_clients_submit_delays_no_other,
    a_ref_that_was_sent_is_followed,
    a_waiting_job_of_another_client_can_be_claimed,
    a_budget_is_kept_over_all_clients,
    concurrent_claims_stay_within_the_budget,
    a_budget_of_a_day_counts_from_its_beginning,
    one_account_does_not_count_for_another,
)
