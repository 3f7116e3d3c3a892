"""Who may be in flight."""

from __future__ import annotations

import weakref

from hypothesis import given
from hypothesis import strategies as st

from modelslab_async.protocol.slots import DEFAULT_WAIT, Slots


def filled(limit: int, waiting: int) -> tuple[Slots[int], list[int]]:
    slots = Slots[int](limit)
    for item in range(waiting):
        slots.enqueue(item)
    return slots, list(slots.grant(0.0))


def test_first_in_first_out() -> None:
    """As many as there are places, in order; the next when one is free."""
    slots, granted = filled(3, 5)
    assert granted == [0, 1, 2]
    slots.release(1)
    assert list(slots.grant(0.0)) == [3]


def test_a_withdrawn_item_is_passed_over() -> None:
    """Who left the queue is never granted."""
    slots, _ = filled(1, 3)
    slots.withdraw(1)
    slots.release(0)
    assert list(slots.grant(0.0)) == [2]


def test_a_refused_item_is_first_again_when_a_place_frees_up() -> None:
    """The cap falls to what is held, and one that ends makes room for the refused one, before those behind it."""
    slots, _ = filled(5, 8)
    for item in (0, 1, 2):
        slots.accepted(item)
    for item in (4, 3):
        slots.put_back(item, 0.0, wait=30.0, maximum=None)
    assert (slots.cap, slots.taken, list(slots.grant(1.0))) == (3, 3, [])
    slots.release(1)
    assert list(slots.grant(2.0)) == [3]


def test_after_the_services_wait_one_more_is_tried() -> None:
    """Also when nothing of ours ends: others may have."""
    slots, _ = filled(2, 3)
    slots.accepted(0)
    slots.put_back(1, 0.0, wait=30.0, maximum=None)
    assert slots.retry_at == 30.0
    assert list(slots.grant(29.9)) == []
    assert list(slots.grant(30.0)) == [1]


def test_a_refusal_without_a_time_waits_the_usual() -> None:
    """And one of 0 seconds does not become a storm."""
    for wait, expected in ((None, DEFAULT_WAIT), (0.0, 1.0)):
        slots, _ = filled(1, 1)
        slots.put_back(0, 100.0, wait=wait, maximum=None)
        assert slots.retry_at == 100.0 + expected


def test_the_cap_climbs_by_one_with_each_quiet_success() -> None:
    """Up to the limit; while a refusal is fresh it stays."""
    slots, _ = filled(4, 9)
    slots.accepted(0)
    for item in (3, 2, 1):
        slots.put_back(item, 0.0, wait=10.0, maximum=None)
    caps = []
    now = 10.0
    for _ in range(4):
        for item in list(slots.grant(now)):
            slots.accepted(item)
        caps.append(slots.cap)
    assert caps == [3, 4, 4, 4]


def test_a_named_maximum_is_the_ceiling_from_then_on() -> None:
    """More than the service says it allows is never asked for again."""
    slots, _ = filled(15, 40)
    for item in range(14, 4, -1):
        slots.put_back(item, 0.0, wait=1.0, maximum=5)
    now = 1.0
    for _ in range(50):
        now += 10.0
        for item in slots.grant(now):
            slots.accepted(item)
        assert slots.taken <= 5
    assert slots.cap == 5


STEPS = st.lists(st.tuples(st.sampled_from(["enqueue", "accept", "refuse", "end", "doubt", "wait"]), st.integers(0, 9)))


@given(limit=st.integers(1, 15), steps=STEPS)
def test_laws(limit: int, steps: list[tuple[str, int]]) -> None:
    """Whatever happens: never over the limit, nobody granted twice or lost, and no waiting for ever."""
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
            case "accept" | "doubt" if asked:
                item = asked.pop(which % len(asked))
                (slots.accepted if step == "accept" else slots.in_doubt)(item)
                held.append(item)
            case "refuse" if asked:
                item = asked.pop(which % len(asked))
                slots.put_back(item, now, wait=float(which), maximum=None)
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


def test_who_left_the_queue_is_not_held() -> None:
    """A queue of a hundred thousand that was cancelled is memory that its owner wants back."""

    class Item:
        """An object, so that it can be seen to go."""

    slots, item = Slots[Item](1), Item()
    gone = weakref.ref(item)
    slots.enqueue(Item())
    assert len(list(slots.grant(0.0))) == 1
    slots.enqueue(item)
    slots.withdraw(item)
    del item
    assert gone() is None


def test_who_fills_no_place_does_not_wait_for_ever() -> None:
    """The cap fell at a refusal, and others have filled what is left of it since: one more is tried now and then."""
    slots, _ = filled(5, 1)
    slots.put_back(0, 0.0, wait=30.0, maximum=None)
    slots.withdraw(0)
    assert list(slots.grant(30.0)) == []
    slots.used_elsewhere = 1
    slots.enqueue(1)
    assert list(slots.grant(100.0)) == []
    assert slots.retry_at == 100.0 + DEFAULT_WAIT
    assert list(slots.grant(100.0 + DEFAULT_WAIT)) == [1]
