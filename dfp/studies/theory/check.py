"""A statement of the paper beside what was measured of it."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Check(NamedTuple):
    """One statement of the paper, what it says of the example, and what was measured."""

    name: str
    equation: str
    relation: Literal["=", "<="]
    expected: float  #: closed form (=) or bound (<=)
    measured: float
    tolerance: float  #: absolute
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measured value agrees with the statement. A value that is not finite never does."""
        excess = self.measured - self.expected
        return bool((abs(excess) if self.relation == "=" else excess) <= self.tolerance)
