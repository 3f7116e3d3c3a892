"""What each event of a job means for its charge, its budget and its slot, and whether it ends the job.

One row an event. The job, its journal row, the budget and the dispatcher all read this table, so they cannot disagree.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from modelslab_async.errors import NotFoundError
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Event


class BudgetEffect(Enum):
    """What becomes of a job's reservation."""

    KEEP = auto()
    SETTLE = auto()
    """It is spent."""
    HOLD = auto()
    """It may be spent: it counts until that is known."""
    RELEASE = auto()
    """It surely is not spent."""


class SlotEffect(Enum):
    """What becomes of the slot that a job holds."""

    KEEP = auto()
    ACCEPT = auto()
    """The service has the job: it holds the slot until it ends there."""
    DOUBT = auto()
    """The service may have the job: the slot is held for a while."""
    PUT_BACK = auto()
    """The service has no slot: the job goes back to the head of the queue."""
    RELEASE = auto()
    WITHDRAW = auto()
    """The job leaves the queue. It held no slot."""


class Effects(NamedTuple):
    """The effects of one event.

    charged: what is known after it: False, True, or None if the job may have been charged.
    ends: whether the job has its result or error then.
    """

    charged: bool | None
    budget: BudgetEffect
    slot: SlotEffect
    ends: bool


_B, _S = BudgetEffect, SlotEffect
_TABLE: Mapping[type[Event], Effects] = {
    lifecycle.Started: Effects(None, _B.KEEP, _S.KEEP, ends=False),
    lifecycle.PutBack: Effects(False, _B.KEEP, _S.PUT_BACK, ends=False),
    lifecycle.Cancelled: Effects(False, _B.RELEASE, _S.WITHDRAW, ends=True),
    lifecycle.Rejected: Effects(False, _B.RELEASE, _S.RELEASE, ends=True),
    lifecycle.ReplyLost: Effects(None, _B.HOLD, _S.DOUBT, ends=True),
    lifecycle.Failed: Effects(None, _B.SETTLE, _S.RELEASE, ends=True),
    lifecycle.Abandoned: Effects(True, _B.KEEP, _S.RELEASE, ends=True),
    lifecycle.NotFound: Effects(False, _B.KEEP, _S.RELEASE, ends=True),
    lifecycle.Verified: Effects(True, _B.KEEP, _S.KEEP, ends=True),
    lifecycle.Unreadable: Effects(True, _B.KEEP, _S.KEEP, ends=True),
    wire.Accepted: Effects(True, _B.SETTLE, _S.ACCEPT, ends=False),
    wire.Ready: Effects(True, _B.SETTLE, _S.RELEASE, ends=False),
}


def effects_of(event: Event) -> Effects:
    """Return what an event means. Two depend on what they carry.

    A reply that was lost does not end a job that a webhook may still report. A job that the service does not know may
    not have been charged.
    """
    effects = _TABLE[type(event)]
    match event:
        case lifecycle.ReplyLost(may_be_heard_of=True):
            return effects._replace(ends=False)
        case lifecycle.Abandoned(error=NotFoundError()) | lifecycle.Unreadable(error=NotFoundError()):
            return effects._replace(charged=None)
        case _:
            return effects
