"""Checks that every journal must pass, also one of your own.

Each check is an async function. Its docstring is the law that it tests, and it raises AssertionError if the journal
breaks the law. Write a `Harness` that opens clients on one storage, and run every check with a new one. With pytest:

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    async def test_my_journal(check: Check) -> None:
        async with MyHarness() as harness:
            await check(harness)

Each check uses a different account, so that all may share one storage.
"""

from modelslab_async.journal.conformance import asking, claims, outcomes, rows
from modelslab_async.journal.conformance.harness import Check, Harness

CHECKS: tuple[Check, ...] = (*rows.CHECKS, *outcomes.CHECKS, *claims.CHECKS, *asking.CHECKS)
"""All checks."""

__all__ = ["CHECKS", "Check", "Harness"]
