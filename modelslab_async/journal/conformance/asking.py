"""In which order clients get free slots, and what refusals and acceptances do to the account's cap."""

from modelslab_async.journal.base import Journal
from modelslab_async.journal.conformance.claims import claim, is_claimed
from modelslab_async.journal.conformance.harness import Check, Harness, S, an_intent, expect, record_of
from modelslab_async.protocol.claims import ASK_HOLDS, Ask, Claimed, NoSlot


async def the_oldest_asking_client_comes_first(harness: Harness) -> None:
    """A free slot goes to the client that asked first, however often the others ask."""
    busy, first, second = await harness.open(), await harness.open(), await harness.open()
    held = an_intent(harness, busy, "held")
    expect(isinstance(await busy.claim(held, Ask(slots=1)), Claimed), expected=True)
    for journal in (first, second, busy):
        own = int(journal is busy)
        expect(await is_claimed(harness, journal, f"of {journal.owner}", Ask(slots=1, held=own)), expected=False)
        await harness.let_pass(0.01)
    await busy.append(held._replace(state=S.READY))
    for journal in (busy, second, busy, second):
        expect(await is_claimed(harness, journal, f"of {journal.owner}", Ask(slots=1)), expected=False)
    expect(await is_claimed(harness, first, f"of {first.owner}", Ask(slots=1)), expected=True)
    await first.append(an_intent(harness, first, f"of {first.owner}", state=S.READY))
    expect(await is_claimed(harness, busy, f"of {busy.owner}", Ask(slots=1)), expected=False)
    expect(await is_claimed(harness, second, f"of {second.owner}", Ask(slots=1)), expected=True)


async def a_second_free_slot_goes_to_the_second_client(harness: Harness) -> None:
    """Earlier clients are left one slot each, and no more."""
    first, second = await harness.open(), await harness.open()
    expect(await is_claimed(harness, first, "first", Ask(slots=0)), expected=False)
    await harness.let_pass(0.01)
    expect(await is_claimed(harness, second, "second", Ask(slots=1)), expected=False)
    expect(await is_claimed(harness, second, "second", Ask(slots=2)), expected=True)


async def a_client_that_has_its_slot_blocks_nobody(harness: Harness) -> None:
    """A client that got what it asked for does not count as asking, until it asks in vain again."""
    journal, other = await harness.open(), await harness.open()
    expect(await is_claimed(harness, journal, "in vain", Ask(slots=0)), expected=False)
    expect(await is_claimed(harness, journal, "given", Ask(slots=2)), expected=True)
    expect(await is_claimed(harness, other, "r", Ask(slots=2)), expected=True)


async def a_client_that_stops_asking_blocks_others_for_a_time(harness: Harness) -> None:
    """A client that is paused, or does not ask again, blocks the others for ASK_HOLDS seconds, and no longer."""
    silent, other = await harness.open(), await harness.open()
    expect(await is_claimed(harness, silent, "silent", Ask(slots=0)), expected=False)
    await harness.let_pass(0.01)
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=False)
    await harness.let_pass(ASK_HOLDS + 0.5)
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=True)


async def a_dead_client_blocks_nobody(harness: Harness) -> None:
    """What a dead client asked for is forgotten."""
    dead, other = await harness.open(), await harness.open()
    expect(await is_claimed(harness, dead, "dead", Ask(slots=0)), expected=False)
    await harness.let_pass(0.01)
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=False)
    await harness.kill(dead)
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=True)


async def close_ends_the_asking(harness: Harness) -> None:
    """A client that was closed does not block the others."""
    closed, other = await harness.open(), await harness.open()
    expect(await is_claimed(harness, closed, "closed", Ask(slots=0)), expected=False)
    await harness.let_pass(0.01)
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=False)
    await closed.close()
    expect(await is_claimed(harness, other, "r", Ask(slots=1)), expected=True)


async def the_largest_limit_counts(harness: Harness) -> None:
    """If clients were configured with different limits, the largest is the account's."""
    small, large = await harness.open(), await harness.open()
    expect(await claim(harness, large, "one", Ask(slots=3)), Claimed(usable=3))
    expect(await claim(harness, small, "two", Ask(slots=1)), Claimed(usable=3))


async def a_refusal_lowers_the_cap_for_all_clients(harness: Harness) -> None:
    """The service had no slot, so the slots in use are the cap, until the time that the service named."""
    journal, other = await harness.open(), await harness.open()
    await other.append(an_intent(harness, other, "theirs", state=S.PROCESSING, job_id="77"))
    intent = an_intent(harness, journal, "mine")
    expect(isinstance(await journal.claim(intent, Ask(slots=5, held=1)), Claimed), expected=True)
    waiting = intent._replace(state=S.WAITING, submitted_at=None, charged=False)
    await journal.put_back(waiting, Ask(slots=5, held=1), wait=20.0, maximum=None)
    expect(await record_of(harness, other, "mine"), waiting)
    await journal.append(an_intent(harness, journal, "held", state=S.PROCESSING, job_id="78"))
    answer = await claim(harness, other, "more", Ask(slots=5, held=1))
    if not isinstance(answer, NoSlot) or answer.retry_in is None:
        raise AssertionError(f"NoSlot with a time was expected, not {answer!r}")
    expect((answer.usable, 15 < answer.retry_in <= 20), (2, True))


async def after_a_refusal_one_more_job_is_tried_in_time(harness: Harness) -> None:
    """When the time that the service named has come, one client may send one job, although no job ended."""
    journal, other = await harness.open(), await harness.open()
    await _refused(harness, journal, held=2)
    ask = Ask(slots=5, held=2)
    expect(await is_claimed(harness, journal, "mine", ask), expected=False)
    await harness.let_pass(1.5)
    expect(await is_claimed(harness, journal, "mine", ask), expected=True)
    expect(await is_claimed(harness, other, "theirs", Ask(slots=5)), expected=False)


async def an_acceptance_raises_the_cap_for_all_clients(harness: Harness) -> None:
    """Each accepted job raises the cap by one, whether it was appended or noted. A second write of it does not."""
    journal, other = await harness.open(), await harness.open()
    await _refused(harness, journal, held=2)
    await harness.let_pass(1.5)
    usable, held = 3, 2
    for number, is_noted in enumerate((False, True)):
        intent = an_intent(harness, journal, f"r{number}")
        expect(await journal.claim(intent, Ask(slots=9, held=held)), Claimed(usable), of=number)
        accepted = intent._replace(state=S.PROCESSING, job_id=f"{number}", accepted_at=1.0, charged=True)
        if is_noted:
            journal.note(accepted)
            await record_of(harness, journal, intent.ref)
        else:
            expect(await journal.append(accepted), expected=True)
        await journal.append(accepted._replace(state=S.READY))
        await journal.append(accepted)
        usable, held = usable + 1, held + 1
    await journal.append(an_intent(harness, journal, "a", state=S.PROCESSING, job_id="a"))
    await journal.append(an_intent(harness, journal, "b", state=S.PROCESSING, job_id="b"))
    expect(await claim(harness, other, "theirs", Ask(slots=9)), Claimed(usable))


async def the_maximum_in_a_refusal_is_the_limit(harness: Harness) -> None:
    """If the service names the account's limit, no client uses more, whatever it was configured with."""
    journal, other = await harness.open(), await harness.open()
    await _refused(harness, journal, held=1, maximum=2)
    await harness.let_pass(1.5)
    intent = an_intent(harness, journal, "r")
    expect(await journal.claim(intent, Ask(slots=9, held=1)), Claimed(usable=2))
    for number in range(3):
        each = intent._replace(ref=f"r{number}")
        await journal.append(each)
        await journal.append(each._replace(state=S.READY, job_id=each.ref, accepted_at=1.0, charged=True))
    await journal.append(intent._replace(state=S.PROCESSING, job_id="r", accepted_at=1.0))
    expect(await claim(harness, other, "theirs", Ask(slots=9, held=0)), Claimed(usable=2))
    expect(await is_claimed(harness, other, "theirs too", Ask(slots=9, held=1)), expected=False)


async def _refused(harness: Harness, journal: Journal, held: int, maximum: int | None = None) -> None:
    """Let the service refuse a job for want of a slot, and ask to be called again after 1 s."""
    intent = an_intent(harness, journal, "refused")
    expect(isinstance(await journal.claim(intent, Ask(slots=9, held=held)), Claimed), expected=True)
    waiting = intent._replace(state=S.WAITING, submitted_at=None, charged=False)
    await journal.put_back(waiting, Ask(slots=9, held=held), wait=1.0, maximum=maximum)


CHECKS: tuple[Check, ...] = (
    the_oldest_asking_client_comes_first,
    a_second_free_slot_goes_to_the_second_client,
    a_client_that_has_its_slot_blocks_nobody,
    a_client_that_stops_asking_blocks_others_for_a_time,
    a_dead_client_blocks_nobody,
    close_ends_the_asking,
    the_largest_limit_counts,
    a_refusal_lowers_the_cap_for_all_clients,
    after_a_refusal_one_more_job_is_tried_in_time,
    an_acceptance_raises_the_cap_for_all_clients,
    the_maximum_in_a_refusal_is_the_limit,
)
