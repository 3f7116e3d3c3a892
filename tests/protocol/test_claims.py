"""Claims of slots by the clients of one account: the cap over all of them, and whose turn it is."""

from __future__ import annotations

import attrs
from hypothesis import given
from hypothesis import strategies as st

from modelslab_async import JobRecord, JobState
from modelslab_async.protocol.claims import (
    ASK_HOLDS,
    DEFAULT_WAIT,
    Account,
    AccountCap,
    Ask,
    Claimed,
    ClientAsk,
    NoSlot,
    Others,
    decide,
)

S = JobState
LIMIT = 5


def row(owner: str, state: JobState = S.PROCESSING, at: float = 0.0) -> JobRecord:
    return JobRecord("a", f"{owner} {at}", owner, at, state=state, submitted_at=at, accepted_at=at)


@attrs.define
class World:
    """An account with a journal that is nothing but these values, and clients that claim with its knowledge."""

    now: float = 1000.0
    cap: AccountCap = attrs.field(factory=AccountCap)
    asks: dict[str, ClientAsk] = attrs.field(factory=dict[str, ClientAsk])
    jobs: list[tuple[str, JobState]] = attrs.field(factory=list[tuple[str, JobState]])
    """The owner and the state of each job that holds a slot."""

    def claim(self, owner: str, slots: int = LIMIT) -> Claimed | NoSlot:
        mine = [state for each, state in self.jobs if each == owner]
        others = [(row(each, state, self.now), True) for each, state in self.jobs if each != owner]
        account = Account(self.cap, list(self.asks.values()), others)
        answer, cap, ask = account.decide(owner, Ask(slots, len(mine), mine.count(S.SUBMITTING)), self.now)
        self.cap = cap or self.cap
        if ask:
            self.asks[owner] = ask
        if isinstance(answer, Claimed):
            self.jobs.append((owner, S.SUBMITTING))
        return answer


STEPS = st.lists(
    st.tuples(st.sampled_from(["claim", "accept", "refuse", "end", "wait"]), st.sampled_from("abcd"), st.integers(0, 9))
)


@given(steps=STEPS)
def test_the_cap_holds_over_all_clients(steps: list[tuple[str, str, int]]) -> None:
    """In any sequence no more jobs hold a slot than the account has, and in the end a client gets one."""
    world = World()
    for step, client, number in steps:
        mine = [job for job in world.jobs if job[0] == client]
        submitting = [job for job in mine if job[1] is S.SUBMITTING]
        match step:
            case "claim":
                world.claim(client)
            case "accept" if submitting:
                world.jobs[world.jobs.index(submitting[0])] = (client, S.PROCESSING)
                world.cap = world.cap.after_acceptance()
            case "refuse" if submitting:
                world.jobs.remove(submitting[0])
                world.cap = world.cap.after_refusal(len(world.jobs), world.now, wait=float(number), maximum=None)
            case "end" if mine:
                world.jobs.remove(mine[0])
            case _:
                world.now += number
        assert len(world.jobs) <= LIMIT
    world.jobs.clear()
    answers = []
    for _ in range(3):  # the first attempt may have to wait until the time to retry is known
        answers.append(world.claim("a"))
        world.now += DEFAULT_WAIT + ASK_HOLDS
    assert any(isinstance(answer, Claimed) for answer in answers)


@given(backlog=st.integers(1, 4), others=st.sets(st.sampled_from("bcd"), min_size=1))
def test_the_slot_goes_to_the_client_that_asks_longest(backlog: int, others: set[str]) -> None:
    """A client with a backlog gets its next slot after every client that asked meanwhile has had one."""
    world = World(jobs=[("a", S.PROCESSING)] * LIMIT)
    order: list[str] = []
    for _ in range(backlog + len(others)):
        for client in ("a", *sorted(others)):
            if client == "a" or client not in order:
                world.claim(client)
                world.now += 0.1
        world.jobs.remove(("a", S.PROCESSING))
        for client in ("a", *sorted(others)):
            if (client == "a" or client not in order) and isinstance(world.claim(client), Claimed):
                order.append(client)
                world.jobs[-1] = ("a", S.PROCESSING)
    assert order[: len(others) + 1] == ["a", *sorted(others)]


def test_a_client_that_stopped_asking_blocks_nobody() -> None:
    """Its ask counts for ASK_HOLDS seconds. Then the slot goes to the next client."""
    world = World(jobs=[("a", S.PROCESSING)] * LIMIT)
    world.claim("stopped")
    world.now += 1.0
    world.claim("b")
    world.jobs.pop()
    assert isinstance(world.claim("b"), NoSlot)
    world.now += ASK_HOLDS - 1.5
    world.claim("b")
    world.now += 1.0
    assert isinstance(world.claim("b"), Claimed)


def test_a_client_with_fewer_slots_does_not_lower_the_account() -> None:
    """The account has as many slots as the client with the largest number says; its own number bounds only itself."""
    world = World(jobs=[("large", S.PROCESSING)] * 3)
    world.asks["large"] = ClientAsk("large", 5, None, world.now)
    assert isinstance(world.claim("small", slots=2), Claimed)


def test_one_submit_at_a_time_while_the_cap_is_low() -> None:
    """After a refusal the service is not asked by several clients at once."""
    world = World(jobs=[("a", S.PROCESSING)])
    world.cap = AccountCap(None, 3, None, world.now)
    assert isinstance(world.claim("a"), Claimed)
    assert isinstance(world.claim("b"), NoSlot)
    world.jobs[-1] = ("a", S.PROCESSING)
    assert isinstance(world.claim("b"), Claimed)


def test_a_named_maximum_is_believed_for_an_hour() -> None:
    """After that the account may have a larger plan."""
    cap = AccountCap().after_refusal(2, 0.0, wait=1.0, maximum=2)._replace(cap=15, retry_at=None)
    assert isinstance(decide(Ask(15, 2), Others(), cap, 3599.0)[0], NoSlot)
    assert isinstance(decide(Ask(15, 2), Others(), cap, 3601.0)[0], Claimed)


def test_a_cap_below_all_known_jobs_is_tried_again() -> None:
    """If jobs of other programs took all slots, the client that waits is told when to try one more."""
    cap = AccountCap(None, 0, None, 0.0)
    answer, cap = decide(Ask(5), Others(), cap, 100.0)
    assert answer == NoSlot(0, DEFAULT_WAIT)
    assert isinstance(decide(Ask(5), Others(), cap, 100.0 + DEFAULT_WAIT)[0], Claimed)


def test_the_ask_is_written_only_when_it_changed_or_grew_old() -> None:
    """A claim in vain changes nothing in the journal, so that clients that wait do not wake each other."""
    account = Account(AccountCap(), [], [(row("b", at=1000.0), True)] * LIMIT)
    first = account.decide("a", Ask(LIMIT), 1000.0)
    assert first.ask
    again = account._replace(asks=[first.ask]).decide("a", Ask(LIMIT), 1000.5)
    assert again == (NoSlot(LIMIT), None, None)
    assert account._replace(asks=[first.ask]).decide("a", Ask(LIMIT), 1001.5).ask is not None
