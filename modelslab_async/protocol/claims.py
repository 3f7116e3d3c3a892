"""Decide whether an account has a free slot for one more job, over all of its clients.

The service's limit counts the jobs that an account has queued or processing, over all endpoints, processes and hosts.
So a job holds its slot from before the POST until the service says that the job ended. Jobs of other programs show only
as a 429. Then the cap falls to the slots that are known to be used. It climbs back by one with each job that is
accepted without a recent refusal.

A client without a journal decides for itself. Clients that share a journal decide in its transactions, by the same
functions. This module has no I/O and no clock: all times are seconds of one clock that the caller chooses.
"""

from collections.abc import Sequence
from typing import NamedTuple

from modelslab_async.protocol.lifecycle import JobState
from modelslab_async.protocol.pricing import SpendingLimit
from modelslab_async.protocol.record import JobRecord

DEFAULT_WAIT = 30.0
"""Seconds to wait after a 429 that names no time. The service's own refusals name this time in their body."""
ASK_EVERY = 2.0
"""Seconds after which a client without a slot asks again, if no change of the journal made it ask before."""
ASK_HOLDS = 3 * ASK_EVERY
"""Seconds for which a client counts as asking after it last asked. A client that is stopped blocks others no longer."""
_SHORTEST_WAIT = 1.0
_MAXIMUM_HOLDS = 3600.0
"""Seconds for which the maximum in a refusal is believed. Its owner may have bought a larger plan since."""


class AccountCap(NamedTuple):
    """What refusals for want of a slot (429) taught about an account.

    maximum: the account's limit, as the last refusal named it; None if it named none.
    cap: how many slots the clients may use together; None before the first refusal.
    retry_at: when one more job may be tried although no job ended; None if the last refusal is not recent.
    refused_at: the time of the last refusal; None before the first.
    """

    maximum: int | None = None
    cap: int | None = None
    retry_at: float | None = None
    refused_at: float | None = None

    def ceiling(self, slots: int, now: float) -> int:
        """Return the account's limit: *slots*, or less if the service named less."""
        is_believed = self.refused_at is not None and now - self.refused_at < _MAXIMUM_HOLDS
        return min(slots, self.maximum) if self.maximum and is_believed else slots

    def usable(self, slots: int, now: float) -> int:
        """Return how many slots all clients together may use now."""
        ceiling = self.ceiling(slots, now)
        return ceiling if self.cap is None else min(ceiling, self.cap)

    def after_refusal(self, used: int, now: float, *, wait: float | None, maximum: int | None) -> "AccountCap":
        """Return the cap after a 429, while *used* other jobs held slots.

        wait: the seconds after which the service asks to be called again; None for DEFAULT_WAIT.
        maximum: the account's limit; None if the service named none.
        """
        retry_at = now + (DEFAULT_WAIT if wait is None else max(wait, _SHORTEST_WAIT))
        return AccountCap(maximum or self.maximum, used, retry_at, now)

    def after_acceptance(self) -> "AccountCap":
        """Return the cap after the service accepted a job: one more, unless a refusal is recent."""
        return self if self.cap is None or self.retry_at is not None else self._replace(cap=self.cap + 1)

    def at(self, now: float, used: int) -> "AccountCap":
        """Return the cap at *now*: when the time to retry has come, one more job than the *used* slots may be tried."""
        if self.retry_at is None or now < self.retry_at:
            return self
        return self._replace(cap=max(self.cap or 0, used + 1), retry_at=None)


class Ask(NamedTuple):
    """What a client asks for when it claims a slot for a job.

    slots: the account's limit, as this client was configured.
    held: how many slots the jobs of this client hold, without those that are UNCERTAIN.
    submitting: how many of these jobs wait for the reply to their submit.
    spending: what may be spent over all clients; None for no limit.
    """

    slots: int
    held: int = 0
    submitting: int = 0
    spending: SpendingLimit | None = None


class Others(NamedTuple):
    """What the account's other clients do.

    slots: the largest limit that one of those that are alive was configured with.
    held, submitting: as in `Ask`, for all of them together. A client that is gone waits for no reply. *held* includes
        the jobs of all clients that are UNCERTAIN.
    earlier: how many of them have been asking for a slot for longer than this client.
    """

    slots: int = 0
    held: int = 0
    submitting: int = 0
    earlier: int = 0


class Claimed(NamedTuple):
    """The job has a slot, and its row says SUBMITTING. It must be sent now.

    usable: how many slots all clients of the account may use now.
    """

    usable: int


class NoSlot(NamedTuple):
    """No slot is free for the job. Its row says WAITING.

    usable: as in `Claimed`.
    retry_in: the seconds after which it is worth asking again although nothing changed; None if there is no such time.
    """

    usable: int
    retry_in: float | None = None


class Follow(NamedTuple):
    """The ref belongs to another job, which was, or may have been, sent.

    record: that job's row. is_alive: whether the client that owns it is alive.
    """

    record: JobRecord
    is_alive: bool


Claim = Claimed | NoSlot | Follow


class ClientAsk(NamedTuple):
    """What a journal keeps of the asking of each client. The names are those of `Ask`; times are unix seconds.

    since: since when the client asks; None if it has what it asked for.
    asked_at: when it asked last.
    """

    owner: str
    slots: int
    since: float | None
    asked_at: float


class Account(NamedTuple):
    """What a journal knows of an account when one of its clients claims a slot.

    cap: as it is kept. asks: of all clients that are alive. holding: the rows that may hold a slot, each with whether
    its owner is alive. They are those of all clients but the one that claims, and all that are UNCERTAIN.
    """

    cap: AccountCap
    asks: Sequence[ClientAsk]
    holding: Sequence[tuple[JobRecord, bool]]

    def decide(self, owner: str, ask: Ask, now: float) -> "Decision":
        """Return what the claim of *owner* gets, and what the journal has to keep. *now* is in unix seconds."""
        mine = next((each for each in self.asks if each.owner == owner), None)
        since = now if mine is None or mine.since is None or not _is_fresh(mine, now) else mine.since
        others = [each for each in self.asks if each.owner != owner]
        held = [row for row in self.holding if row[0].holds_slot(now, is_alive=row[1])]
        answer, cap = decide(
            ask,
            Others(
                slots=max((each.slots for each in others), default=0),
                held=len(held),
                submitting=sum(record.state is JobState.SUBMITTING and is_alive for record, is_alive in held),
                earlier=sum(each.since is not None and each.since < since and _is_fresh(each, now) for each in others),
            ),
            self.cap,
            now,
        )
        kept = ClientAsk(owner, ask.slots, since if isinstance(answer, NoSlot) else None, now)
        is_due = mine is None or mine[1:3] != kept[1:3] or now - mine.asked_at >= ASK_EVERY / 2
        return Decision(answer, cap if cap != self.cap else None, kept if is_due else None)

    def used(self, now: float) -> int:
        """Return how many slots the jobs of `holding` hold."""
        return sum(record.holds_slot(now, is_alive=is_alive) for record, is_alive in self.holding)


class Decision(NamedTuple):
    """The answer to a claim, and what changed: the account's cap and the client's ask, each None if it did not."""

    answer: Claimed | NoSlot
    cap: AccountCap | None
    ask: ClientAsk | None


def _is_fresh(ask: ClientAsk, now: float) -> bool:
    return abs(now - ask.asked_at) < ASK_HOLDS


def decide(ask: Ask, others: Others, cap: AccountCap, now: float) -> tuple[Claimed | NoSlot, AccountCap]:
    """Return whether one more job may be submitted at *now*, and the account's cap from now on.

    The slots that are free go to the clients in the order in which they began to ask. While refusals keep the cap below
    the account's limit, one submit goes out at a time. So the service does not refuse many submits at once.
    """
    used = ask.held + others.held
    slots = max(ask.slots, others.slots)
    cap = cap.at(now, used)
    usable = cap.usable(slots, now)
    is_capped = usable < cap.ceiling(slots, now)
    is_probing = is_capped and ask.submitting + others.submitting > 0
    if usable - used > others.earlier and not is_probing:
        return Claimed(usable), cap
    if is_capped and used == 0 and cap.retry_at is None:
        cap = cap._replace(retry_at=now + DEFAULT_WAIT)  # the account's jobs are unknown, so none of their ends is seen
    return NoSlot(usable, None if cap.retry_at is None else max(cap.retry_at - now, 0.0)), cap
