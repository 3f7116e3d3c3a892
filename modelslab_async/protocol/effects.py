"""Define what each event of a job does to its charge, its budget and its slot, and whether it ends the job.

The table has one row for each event. The job, its journal row, the budget and the dispatcher all read this table, so
they cannot disagree.
"""

from collections.abc import Mapping
from enum import Enum, auto
from typing import NamedTuple

from modelslab_async.errors import NotFoundError
from modelslab_async.protocol import lifecycle, wire
from modelslab_async.protocol.lifecycle import Event


class BudgetEffect(Enum):
    """Effect on the job's budget reservation."""

    KEEP = auto()
    SETTLE = auto()
    """The reservation is spent."""
    HOLD = auto()
    """The reservation may have been spent. It counts as spent until that is known."""
    RELEASE = auto()
    """The reservation is certainly not spent."""


class SlotEffect(Enum):
    """Effect on the slot that the job holds."""

    KEEP = auto()
    ACCEPT = auto()
    """The service has the job. The job holds the slot until it ends at the service."""
    HOLD = auto()
    """The service may have the job. The slot is held for twice the expected time of such a job, at most 120 s."""
    PUT_BACK = auto()
    """The job was not sent, or the service has no free slot. The job returns to the head of the queue."""
    RELEASE = auto()
    """The slot is free."""
    WITHDRAW = auto()
    """The job leaves the queue. It held no slot."""


class Effects(NamedTuple):
    """The effects of one event.

    charged: what is known of the charge after the event: False, True, or None if the job may have been charged.
    budget: the effect on the job's budget reservation.
    slot: the effect on the job's slot.
    ends: whether the job has its result or error after the event.
    """

    charged: bool | None
    budget: BudgetEffect
    slot: SlotEffect
    ends: bool


_B, _S = BudgetEffect, SlotEffect
_TABLE: Mapping[type[Event], Effects] = {
    lifecycle.Started: Effects(None, _B.KEEP, _S.KEEP, ends=False),
    lifecycle.PutBack: Effects(False, _B.KEEP, _S.PUT_BACK, ends=False),
    lifecycle.Deferred: Effects(False, _B.KEEP, _S.PUT_BACK, ends=False),
    lifecycle.Postponed: Effects(False, _B.KEEP, _S.RELEASE, ends=False),
    lifecycle.Cancelled: Effects(False, _B.RELEASE, _S.WITHDRAW, ends=True),
    lifecycle.Rejected: Effects(False, _B.RELEASE, _S.RELEASE, ends=True),
    lifecycle.ReplyLost: Effects(None, _B.HOLD, _S.HOLD, ends=True),
    lifecycle.Failed: Effects(None, _B.SETTLE, _S.RELEASE, ends=True),
    lifecycle.Abandoned: Effects(True, _B.KEEP, _S.RELEASE, ends=True),
    lifecycle.NotFound: Effects(False, _B.KEEP, _S.RELEASE, ends=True),
    lifecycle.Verified: Effects(True, _B.KEEP, _S.KEEP, ends=True),
    lifecycle.Unreadable: Effects(True, _B.KEEP, _S.KEEP, ends=True),
    wire.Accepted: Effects(True, _B.SETTLE, _S.ACCEPT, ends=False),
    wire.Ready: Effects(True, _B.SETTLE, _S.RELEASE, ends=False),
}


def effects_of(event: Event) -> Effects:
    """Return the effects of *event*.

    The effects of two kinds of event depend on their fields. A lost reply does not end a job that a webhook may still
    report. It is unknown whether a job that the service does not know was charged.
    """
    effects = _TABLE[type(event)]
    match event:
        case lifecycle.ReplyLost(awaits_webhook=True):
            return effects._replace(ends=False)
        case lifecycle.Abandoned(error=NotFoundError()):
            return effects._replace(charged=None)
        case _:
            return effects
