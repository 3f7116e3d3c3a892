"""The ledger of the emulated service: which submits were charged, and to which account. Pure."""

from __future__ import annotations

import hashlib
from decimal import Decimal

import attrs


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


@attrs.define
class Ledger:
    """Charges of all accounts, in the order of the submits. An account is named by a digest of its key."""

    charges: list[Charge] = attrs.field(factory=list[Charge])

    def total(self, key: str | None = None) -> Decimal:
        """Return the USD charged to *key*, or to all keys if *key* is None."""
        wanted = [charge for charge in self.charges if key is None or charge.account == account_fingerprint(key)]
        return sum((charge.usd for charge in wanted), Decimal(0))

    def track_ids(self) -> list[str | None]:
        """Return the track_id of each charge, in order."""
        return [charge.track_id for charge in self.charges]
