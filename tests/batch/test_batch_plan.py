"""The plan of a batch, before anything is sent."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from helpers.batches import MakeWorld, charges, leave, plan, requests, run
from helpers.world import a_request

from modelslab_async import Budget
from modelslab_async.emulator import Fault, Rule

pytestmark = pytest.mark.looptime


async def test_every_problem_is_found_before_anything_is_sent(world: MakeWorld, tmp_path: Path) -> None:
    """The plan names all problems of lines, pictures, duplicates, the budget and the wallet at once."""
    here, folder = world(wallet=Decimal("0.5")), tmp_path / "out"
    (tmp_path / "text.png").write_bytes(b"text")
    wanted = [
        *requests(2),
        a_request(seed=1),
        a_request(init_image=tmp_path / "gone.png", fps=99),
        a_request(init_image=tmp_path / "text.png"),
        a_request(track_id="mine"),
        a_request(track_id="mine", prompt="other"),
    ]
    planned = await plan(here, folder, wanted, client={"budget": Budget(usd=1)})
    assert [problem.field for problem in planned.problems] == [
        "line 3: line", "line 4: fps", "line 4: init_image", "line 5: init_image", "line 7: track_id",
    ]  # fmt: skip
    assert (planned.lines, planned.submit, planned.usd, planned.problem_count) == (7, 5, Decimal("1.0"), 5)
    assert here.transport.requests == []
    planned = await plan(here, folder, requests(6), client={"budget": Budget(usd=1)}, check_wallet=True)
    assert [problem.field for problem in planned.problems] == ["budget", "wallet"]
    assert charges(here) == 0


async def test_a_plan_counts_what_a_run_would_do(world: MakeWorld, tmp_path: Path) -> None:
    """It counts the kept, collected, uncertain, failed and new items, and only the new ones cost."""
    faults = [Rule(Fault.RESET_AFTER, times=1), Rule(Fault.JOB_FAILS, times=1)]
    here, folder = world(faults=faults, queue_limit=4), tmp_path / "out"
    await run(here, folder, requests(4))
    await leave(here, folder, requests(5), 5)
    planned = await plan(here, folder, requests(7))
    assert (planned.lines, planned.kept, planned.uncertain, planned.failed, planned.collect, planned.submit) == (
        7,
        2,
        1,
        1,
        1,
        2,
    )
    assert (planned.usd, planned.problems) == (Decimal("0.4"), [])
