"""The ledger of the emulated service: which submits were charged, and to which account. Pure."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from functools import lru_cache
from typing import Any

import attrs


@lru_cache(1000)
def account_fingerprint(key: str) -> str:
    """Return the name of an account in the ledger: a digest that distinguishes keys without showing them."""
    return hashlib.sha256(f"emulator {key}".encode(errors="surrogatepass")).hexdigest()[:10]


@attrs.frozen
class Charge:
    """The charge of one accepted submit; `at` is in seconds on the emulator's clock."""

    account: str
    job_id: int
    track_id: str | None
    usd: Decimal
    at: float


@attrs.frozen
class Leak:
    """A key that arrived where no key belongs: with a request for a file. `at` is on the emulator's clock.

    account: the account of the key; None if no request of the API had this key.
    where: where the key was, such as "header Authorization".
    """

    account: str | None
    where: str
    path: str
    at: float


@attrs.define
class Ledger:
    """Charges of all accounts, in the order of the submits. An account is named by a digest of its key.

    keep: how many of the newest charges, and of the newest leaks, are kept. The totals count all.
    """

    keep: int = 10_000
    charges: list[Charge] = attrs.field(factory=list[Charge], init=False)
    """The newest charges, in order."""
    leaks: list[Leak] = attrs.field(factory=list[Leak], init=False)
    """The newest keys that came with requests for files."""
    count: int = attrs.field(default=0, init=False)
    """How many submits were charged."""
    _totals: dict[str, Decimal] = attrs.field(factory=dict[str, Decimal], init=False)
    """USD by account."""
    _forgotten: Decimal = attrs.field(default=Decimal(0), init=False)
    """USD of accounts that are not kept."""

    def charge(self, charge: Charge) -> None:
        """Add a charge."""
        self._append(self.charges, charge)
        self.count += 1
        self._totals[charge.account] = self.account_total(charge.account) + charge.usd

    def report(self, leak: Leak) -> None:
        """Add a key that came with a request for a file."""
        self._append(self.leaks, leak)

    def _append(self, items: list[Any], item: object) -> None:
        items.append(item)
        if len(items) > self.keep:
            del items[0]

    def total(self, key: str | None = None) -> Decimal:
        """Return the USD charged to *key*, or to all keys if *key* is None."""
        if key is not None:
            return self.account_total(account_fingerprint(key))
        return sum([*self._totals.values()], self._forgotten)  # a copy: another thread may add an account

    def account_total(self, account: str) -> Decimal:
        """Return the USD charged to an account."""
        return self._totals.get(account, Decimal(0))

    def track_ids(self) -> list[str | None]:
        """Return the track_id of each charge that is kept, in order."""
        return [charge.track_id for charge in self.charges]

    def forget(self, account: str) -> None:
        """Forget an account that has not been used for long. The total of all accounts keeps its charges."""
        self._forgotten += self._totals.pop(account, Decimal(0))

    def reset(self, account: str | None = None) -> None:
        """Erase the charges and leaks of an account, or of all accounts if it is None."""
        if account is None:
            self.__init__(self.keep)  # type: ignore[misc]
            return
        self.count -= sum(charge.account == account for charge in self.charges)
        self.charges = [charge for charge in self.charges if charge.account != account]
        self.leaks = [leak for leak in self.leaks if leak.account != account]
        self._totals.pop(account, None)
