"""Tests of the account's slots and the queue of items that wait for one."""

from __future__ import annotations

import weakref
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.claims import DEFAULT_WAIT
from modelslab_async.protocol.slots import Slots


def slots_with_queue(limit: int, waiting: int) -> tuple[Slots[int], list[int]]:
    """Return slots of which *waiting* items were enqueued and as many as possible granted, and the granted items."""
    slots = Slots[int](limit)
    for item in range(waiting):
        slots.enqueue(item)
    return slots, list(slots.grant(0.0))


def test_first_in_first_out() -> None:
    """As many items as there are slots are granted, in order, and the next item once a slot is free."""
    slots, granted = slots_with_queue(3, 5)
    assert granted == [0, 1, 2]
    slots.release(1)
    assert list(slots.grant(0.0)) == [3]


def test_a_withdrawn_item_is_not_granted() -> None:
    """An item that left the queue is skipped."""
    slots, _ = slots_with_queue(1, 3)
    slots.withdraw(1)
    slots.release(0)
    assert list(slots.grant(0.0)) == [2]


def test_a_refused_item_is_granted_first_once_a_slot_is_free() -> None:
    """The cap falls to the slots that are held. The next free slot goes to the refused item, before later items."""
    slots, _ = slots_with_queue(5, 8)
    for item in (0, 1, 2):
        slots.accepted(item, 0.0)
    for item in (4, 3):
        slots.refused(item, 0.0, wait=30.0, maximum=None)
    assert (slots.cap, slots.taken, list(slots.grant(1.0))) == (3, 3, [])
    slots.release(1)
    assert list(slots.grant(2.0)) == [3]


def test_one_more_item_is_granted_after_the_wait_that_the_service_named() -> None:
    """This holds although no job of this client ended, because jobs of others may have ended."""
    slots, _ = slots_with_queue(2, 3)
    slots.accepted(0, 0.0)
    slots.refused(1, 0.0, wait=30.0, maximum=None)
    assert slots.retry_at == 30.0
    assert list(slots.grant(29.9)) == []
    assert list(slots.grant(30.0)) == [1]


def test_the_wait_after_a_refusal_without_a_time() -> None:
    """A refusal without a time waits for DEFAULT_WAIT, and a refusal with 0 seconds waits for at least 1 s."""
    for wait, expected in ((None, DEFAULT_WAIT), (0.0, 1.0)):
        slots, _ = slots_with_queue(1, 1)
        slots.refused(0, 100.0, wait=wait, maximum=None)
        assert slots.retry_at == 100.0 + expected


def test_the_cap_climbs_by_one_with_each_acceptance() -> None:
    """The cap climbs up to the limit, and does not climb while a refusal is recent."""
    slots, _ = slots_with_queue(4, 9)
    slots.accepted(0, 0.0)
    for item in (3, 2, 1):
        slots.refused(item, 0.0, wait=10.0, maximum=None)
    caps = []
    now = 10.0
    for _ in range(4):
        for item in list(slots.grant(now)):
            slots.accepted(item, now)
        caps.append(slots.cap)
    assert caps == [3, 4, 4, 4]


def test_a_named_maximum_is_the_ceiling_from_then_on() -> None:
    """The client never uses more slots than the maximum that the service named."""
    slots, _ = slots_with_queue(15, 40)
    for item in range(14, 4, -1):
        slots.refused(item, 0.0, wait=1.0, maximum=5)
    now = 1.0
    for _ in range(50):
        now += 10.0
        for item in slots.grant(now):
            slots.accepted(item, now)
        assert slots.taken <= 5
    assert slots.cap == 5


STEPS = st.lists(st.tuples(st.sampled_from(["enqueue", "accept", "refuse", "end", "hold", "wait"]), st.integers(0, 9)))


@given(limit=st.integers(1, 15), steps=STEPS)
def test_the_laws_of_slots(limit: int, steps: list[tuple[str, int]]) -> None:
    """In any sequence the limit holds, no item is granted twice or lost, and no item waits forever."""
    slots, count, now = Slots[int](limit), 0, 0.0
    asked: list[int] = []
    held: list[int] = []
    done: list[int] = []
    waiting: set[int] = set()

    def grant() -> None:
        for item in slots.grant(now):
            assert item in waiting
            waiting.remove(item)
            asked.append(item)

    for step, which in steps:
        match step:
            case "enqueue":
                slots.enqueue(count)
                waiting.add(count)
                count += 1
            case "accept" | "hold" if asked:
                item = asked.pop(which % len(asked))
                answer = partial(slots.accepted, now=now) if step == "accept" else slots.hold
                answer(item)
                held.append(item)
            case "refuse" if asked:
                item = asked.pop(which % len(asked))
                slots.refused(item, now, wait=float(which), maximum=None)
                waiting.add(item)
            case "end" if held:
                item = held.pop(which % len(held))
                slots.release(item)
                done.append(item)
            case _:
                now += which
        grant()
        assert slots.taken == len(asked) + len(held) <= limit
        assert 0 <= slots.cap <= limit
        assert len(waiting) + len(asked) + len(held) + len(done) == count
    if waiting and not asked:
        for item in held:
            slots.release(item)
        now += 3600.0
        first = min(waiting)
        grant()
        assert asked[:1] == [first]


def test_a_withdrawn_item_is_not_referenced() -> None:
    """The memory of withdrawn items is freed, which matters for a queue of a hundred thousand cancelled jobs."""

    class Item:
        """An object that supports weak references."""

    slots, item = Slots[Item](1), Item()
    gone = weakref.ref(item)
    slots.enqueue(Item())
    assert len(list(slots.grant(0.0))) == 1
    slots.enqueue(item)
    slots.withdraw(item)
    del item
    assert gone() is None


def test_a_client_without_slots_does_not_wait_forever() -> None:
    """If the cap fell to 0 at a refusal, one more item is granted after the wait, although no job here can end."""
    slots, _ = slots_with_queue(5, 1)
    slots.refused(0, 0.0, wait=30.0, maximum=None)
    assert (slots.cap, list(slots.grant(29.0))) == (0, [])
    assert slots.retry_at == 30.0
    assert list(slots.grant(30.0)) == [0]
