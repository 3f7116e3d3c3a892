"""What a batch will do and cost, told before the first cent: every line and every picture is checked."""

from __future__ import annotations

from decimal import Decimal

import attrs

from modelslab_async.errors import Problem

MOST_PROBLEMS = 1000


@attrs.define(kw_only=True)
class BatchPlan:
    """What a run would do with the lines of a manifest. Counts of items, USD.

    submit: to be paid for. collect: paid for, and not here yet. kept: finished in an earlier run. uncertain, failed:
    left as they are. usd: what those to be submitted cost. problems: the first of what is wrong, by line and field;
    problem_count: all of it. With problems nothing should be run.
    """

    lines: int = 0
    submit: int = 0
    collect: int = 0
    kept: int = 0
    uncertain: int = 0
    failed: int = 0
    usd: Decimal = Decimal(0)
    problems: list[Problem] = attrs.field(factory=list[Problem])
    problem_count: int = 0

    def wrong(self, problem: Problem, line: int | None = None) -> None:
        """Note a problem, of a line or of the whole."""
        self.problem_count += 1
        if self.problem_count <= MOST_PROBLEMS:
            field = problem.field if line is None else f"line {line}: {problem.field}"
            self.problems.append(problem._replace(field=field))
