"""How many looks a second, over all jobs of a client."""

import math


class Pace:
    """Gives turns in the order in which they are asked for, so none starves. `per_second` None: no bounds."""

    def __init__(self, per_second: float | None = None) -> None:
        self.per_second = per_second
        self._free_at = -math.inf

    def turn(self, now: float) -> float:
        """When the look that is due now may go; the turn is taken, whether it goes then or earlier."""
        if self.per_second is None:
            return now
        at = max(now, self._free_at)
        self._free_at = at + 1 / self.per_second
        return at
