"""The plan of a batch: what a run would do and cost, and every problem, before any job is paid for."""

from __future__ import annotations

from decimal import Decimal

import attrs

from modelslab_async.batch.results import counted
from modelslab_async.errors import Problem, usd

MOST_PROBLEMS = 1000


@attrs.define(kw_only=True)
class BatchPlan:
    """What a run would do with a manifest. All counts are counts of items; do not run it if there are problems.

    lines: all items of the manifest.
    submit: items to be submitted and paid for.
    collect: items that are paid for and not saved yet.
    kept: items that an earlier run finished.
    uncertain, failed: items that would be left as they are.
    usd: the cost in USD of the items to submit, without those with an unknown price.
    unpriced: how many of the items to submit have an unknown price.
    problems: the first 1000 problems, by line and field.
    problem_count: the number of all problems.
    """

    lines: int = 0
    submit: int = 0
    collect: int = 0
    kept: int = 0
    uncertain: int = 0
    failed: int = 0
    usd: Decimal = Decimal(0)
    unpriced: int = 0
    problems: list[Problem] = attrs.field(factory=list[Problem])
    problem_count: int = 0

    @property
    def cost(self) -> str:
        """The cost as text."""
        unpriced = f"{counted(self.unpriced, 'video')} with an unknown price"
        if self.unpriced and not self.usd:
            return unpriced
        return f"{usd(self.usd)} and {unpriced}" if self.unpriced else usd(self.usd)

    def add_problem(self, problem: Problem, line: int | None = None) -> None:
        """Add a problem of a line, or of the whole batch if *line* is None."""
        self.problem_count += 1
        if self.problem_count <= MOST_PROBLEMS:
            field = problem.field if line is None else f"line {line}: {problem.field}"
            self.problems.append(problem._replace(field=field))
