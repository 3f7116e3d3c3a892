"""Check which writes replace the row of another client: a take-over, and the outcome of a submit."""

from typing import Any

from modelslab_async.journal.conformance.harness import Check, Harness, S, a_record, expect, record_of

_ACCEPTED: dict[str, Any] = {"state": S.PROCESSING, "job_id": "77", "accepted_at": 5.0, "charged": True}
_OUTCOMES: dict[str, dict[str, Any]] = {
    "accepted": _ACCEPTED,
    "ready at once, without an id": {"state": S.READY, "accepted_at": 5.0, "links": ("https://files.invalid/a.mp4",)},
    "failed at once": {"state": S.FAILED, "job_id": "77", "accepted_at": 5.0, "ended_at": 5.0},
    "an id is enough": {"state": S.PROCESSING, "job_id": "77"},
    "no free slot": {"state": S.WAITING, "submitted_at": None},
    "refused": {"state": S.REFUSED, "ended_at": 5.0},
}
"""What the sender writes when it has the service's reply, by the kind of reply."""


async def a_row_is_taken_over_once(harness: Harness) -> None:
    """If two clients take over the job of a dead one, one of them gets it."""
    dead, first, second = await harness.open(), await harness.open(), await harness.open()
    await dead.append(a_record(harness, dead, "r", S.PROCESSING))
    await harness.kill(dead)
    taken = [
        await journal.append(a_record(harness, journal, "r", S.PROCESSING), take_over=dead.owner)
        for journal in (first, second)
    ]
    expect(taken, [True, False])
    expect((await record_of(harness, second, "r")).owner, first.owner)


async def many_rows_are_taken_over_at_once(harness: Harness) -> None:
    """`take_over` writes the rows that still belong to the dead client: not those that were taken meanwhile.

    Not even this client takes its own row twice.
    """
    dead, first, second = await harness.open(), await harness.open(), await harness.open()
    for number in range(5):
        await dead.append(a_record(harness, dead, f"r{number}", S.PROCESSING, job_id=f"7{number}"))
    await harness.kill(dead)
    expect(list(await first.take_over([], [])), [])
    mine = [a_record(harness, first, f"r{number}", S.PROCESSING, job_id=f"7{number}") for number in (3, 1)]
    expect(list(await first.take_over(mine, [dead.owner] * 2)), [True, True])
    expect(list(await first.take_over(mine, [dead.owner] * 2)), [False, False])
    theirs = [a_record(harness, second, f"r{number}", S.PROCESSING, job_id=f"7{number}") for number in range(5)]
    theirs[4] = theirs[4]._replace(job_id="70")
    expect(list(await second.take_over(theirs, [dead.owner] * 5)), [True, False, True, False, False])
    owners = [(await record_of(harness, second, f"r{number}")).owner for number in range(5)]
    expect(owners, [second.owner, first.owner, second.owner, first.owner, dead.owner])


async def a_job_that_ended_meanwhile_is_not_taken_over(harness: Harness) -> None:
    """Neither a row that ended, nor a row that would lose its id. A client that read the same end may take the row."""
    owner, other = await harness.open(), await harness.open()
    ended = a_record(harness, owner, "ended", S.READY, job_id="77", ended_at=9.0)
    known = a_record(harness, owner, "known", S.PROCESSING, job_id="78")
    for record in (ended, known):
        expect(await owner.append(record), expected=True)
    for record, changes in ((ended, {"state": S.PROCESSING, "ended_at": None}), (known, {"job_id": None})):
        late = record._replace(owner=other.owner, **changes)
        expect(await other.append(late, take_over=owner.owner), expected=False, of=record.ref)
        expect(await record_of(harness, other, record.ref), record)
    for record in (ended, known):
        taken = record._replace(owner=other.owner, error="taken")
        expect(await other.append(taken, take_over=owner.owner), expected=True, of=record.ref)


async def an_outcome_is_written_after_another_client_took_the_row(harness: Harness) -> None:
    """The reply counts, and the row is its sender's again. Later writes of the other client are refused.

    That client regarded the sender as dead while the submit was under way.
    """
    sender, other = await harness.open(), await harness.open()
    for doubted in (S.SUBMITTING, S.UNCERTAIN):
        for number, (name, outcome) in enumerate(_OUTCOMES.items()):
            ref = f"{doubted} {name}"
            job_id = {"job_id": f"{doubted} {number}"} if "job_id" in outcome else {}
            sent = a_record(harness, sender, ref, S.SUBMITTING, submitted_at=2.0)
            taken = sent._replace(owner=other.owner, state=doubted)
            known = sent._replace(**{**outcome, **job_id})
            expect(await sender.append(sent), expected=True, of=ref)
            expect(await other.append(taken, take_over=sender.owner), expected=True, of=ref)
            expect(await sender.append(known), expected=True, of=ref)
            expect(await record_of(harness, other, ref), known, of=ref)
            if known.state not in (S.WAITING, S.REFUSED):  # those refs are free again
                lost = taken._replace(state=S.REFUSED, ended_at=9.0)
                expect(await other.append(lost, take_over=other.owner), expected=False, of=ref)
                expect(await record_of(harness, other, ref), known, of=ref)
            expect(await sender.append(known._replace(error="later")), expected=True, of=ref)


async def an_outcome_is_noted_after_the_sender_was_taken_for_dead(harness: Harness) -> None:
    """A process that was paused writes the acceptance when it wakes up, also by `note`."""
    sender, other = await harness.open(), await harness.open()
    sent = a_record(harness, sender, "r", S.SUBMITTING, submitted_at=2.0)
    expect(await sender.append(sent), expected=True)
    await harness.kill(sender)
    doubted = sent._replace(owner=other.owner, state=S.UNCERTAIN)
    expect(await other.append(doubted, take_over=sender.owner), expected=True)
    sender.note(sent._replace(**_ACCEPTED))
    expect(await record_of(harness, sender, "r"), sent._replace(**_ACCEPTED))
    expect(await record_of(harness, other, "r"), sent._replace(**_ACCEPTED))


async def an_acceptance_is_not_lost_to_a_later_take_over(harness: Harness) -> None:
    """A client that read the row before the acceptance cannot write over the acceptance."""
    sender, other = await harness.open(), await harness.open()
    sent = a_record(harness, sender, "r", S.SUBMITTING, submitted_at=2.0)
    accepted = sent._replace(**_ACCEPTED)
    for record in (sent, accepted):
        expect(await sender.append(record), expected=True)
    doubted = sent._replace(owner=other.owner, state=S.UNCERTAIN)
    expect(await other.append(doubted, take_over=sender.owner), expected=False)
    expect(await record_of(harness, other, "r"), accepted)
    expect(await other.append(accepted._replace(owner=other.owner), take_over=sender.owner), expected=True)


async def only_an_outcome_of_the_same_submit_is_written_over_another_clients_row(harness: Harness) -> None:
    """In all other cases a row belongs to its owner."""
    journal, other = await harness.open(), await harness.open()
    cases: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "another job": ({"created_at": 7.0}, {}),
        "the row has an id": ({}, {"state": S.PROCESSING, "job_id": "the row has an id!"}),
        "the doubted row has an id": ({}, {"job_id": "the doubted row has an id!"}),
        "the row ended": ({}, {"state": S.TIMED_OUT}),
        "no outcome": ({"job_id": None, "accepted_at": None}, {}),
    }
    for name, (changes, there) in cases.items():
        row = a_record(harness, other, name, S.UNCERTAIN)._replace(**there)
        expect(await other.append(row), expected=True, of=name)
        late = a_record(harness, journal, name)._replace(**{**_ACCEPTED, "job_id": name, **changes})
        expect(await journal.append(late), expected=False, of=name)
        expect(await record_of(harness, journal, name), row, of=name)


async def the_end_of_an_unsent_job_does_not_replace_another_that_waits(harness: Harness) -> None:
    """Two clients submit a job under one ref. If one withdraws its job, the row of the other one still says WAITING."""
    journal, other = await harness.open(), await harness.open()
    for end in (S.CANCELLED, S.REFUSED):
        mine = a_record(harness, journal, end)
        theirs = a_record(harness, other, end, created_at=2.0)
        expect(await journal.append(mine), expected=True, of=end)
        expect(await other.append(theirs), expected=True, of=end)
        expect(await journal.append(mine._replace(state=end, ended_at=9.0)), expected=False, of=end)
        expect(await record_of(harness, journal, end), theirs, of=end)
        expect(await other.append(theirs._replace(state=end, ended_at=9.0)), expected=True, of=end)


CHECKS: tuple[Check, ...] = (
    a_row_is_taken_over_once,
    many_rows_are_taken_over_at_once,
    a_job_that_ended_meanwhile_is_not_taken_over,
    an_outcome_is_written_after_another_client_took_the_row,
    an_outcome_is_noted_after_the_sender_was_taken_for_dead,
    an_acceptance_is_not_lost_to_a_later_take_over,
    only_an_outcome_of_the_same_submit_is_written_over_another_clients_row,
    the_end_of_an_unsent_job_does_not_replace_another_that_waits,
)
