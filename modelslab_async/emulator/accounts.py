"""The accounts of the emulated service: accepted keys, wallets, plans. Pure.

An account is named by a digest of its key, so that no key is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from decimal import Decimal

import attrs

from modelslab_async.emulator.ledger import account_fingerprint

PLANS = {"pay_as_you_go": 5, "standard": 10, "premium": 15}
"""How many jobs each plan may have queued or processing."""


@attrs.define
class Account:
    """The settings of a key. None for a setting: that of the service."""

    name: str
    wallet: Decimal | None = None
    queue_limit: int | None = None
    workers: int | None = None
    is_accepted: bool | None = None
    count_calls: deque[float] = attrs.field(factory=deque[float])
    """When the number of its jobs was asked for lately."""


class Accounts:
    """The accounts that were used or set up, and which keys are accepted.

    keys: the accepted keys. None: any.
    keep: how many accounts are kept; the one that was used longest ago is forgotten first.
    """

    def __init__(self, keys: Collection[str] | None, keep: int) -> None:
        self._accepted = None if keys is None else {account_fingerprint(key) for key in keys}
        self._keep = keep
        self._by_name: dict[str, Account] = {}

    def __iter__(self) -> Iterator[Account]:
        return iter([*self._by_name.values()])

    @property
    def has_surplus(self) -> bool:
        """Whether there are more accounts than are kept."""
        return len(self._by_name) > self._keep

    def find(self, name: str) -> Account | None:
        """Return the account of this name, or None."""
        return self._by_name.get(name)

    def of(self, name: str) -> Account:
        """Return the account of this name, which counts as used now. Make it if it is new."""
        account = self._by_name.pop(name, None) or Account(name)
        self._by_name[name] = account
        return account

    def accepts(self, name: str) -> bool:
        """Return whether the account's key is accepted."""
        account = self.find(name)
        if account and account.is_accepted is not None:
            return account.is_accepted
        return self._accepted is None or name in self._accepted

    def set_accepted(self, key: str, accepted: bool) -> Account:
        """Accept a key from now on, or withdraw it. Return its account."""
        account = self.of(account_fingerprint(key))
        account.is_accepted = accepted
        return account

    def surplus(self, busy: Collection[str]) -> list[str]:
        """Forget the accounts that are too many, except those in *busy*. Return their names."""
        extra = len(self._by_name) - self._keep
        names = [name for name in [*self._by_name][:-1] if name not in busy][: max(extra, 0)]
        for name in names:
            del self._by_name[name]
        return names

    def reset(self, name: str | None = None) -> None:
        """Forget the settings of an account, or of all accounts if it is None."""
        if name is None:
            self._by_name.clear()
        else:
            self._by_name.pop(name, None)
