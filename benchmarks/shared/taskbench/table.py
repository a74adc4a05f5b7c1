"""One row per figure, and the table that shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Row", "render"]


@dataclass(frozen=True)
class Row:
    """One measured figure beside what it is measured against.

    Attributes
    ----------
    figure : str
        What was measured.
    value : float
        The median of the repeats.
    unit : str
        Its unit.
    repeats : int
        How often it was measured.
    against : str
        What it is compared with.
    reference : float
        That one's figure, in the same unit.
    at_least, at_most : float or None
        The target for the ratio ``value / reference``; without either the row informs only.
    on_value : bool
        The target is for the value itself and not for the ratio.
    """

    figure: str
    value: float
    unit: str
    repeats: int
    against: str
    reference: float
    at_least: float | None = None
    at_most: float | None = None
    on_value: bool = False

    @property
    def ratio(self) -> float:
        """The figure as a multiple of what it is compared with."""
        return self.value / self.reference

    @property
    def target(self) -> str:
        """The target as text."""
        unit = f" {self.unit}" if self.on_value else " x"
        if self.at_least is not None:
            return f">= {self.at_least:g}{unit}"
        if self.at_most is not None:
            return f"<= {self.at_most:g}{unit}"
        return "-"

    @property
    def verdict(self) -> str:
        """``met`` or ``MISSED``; a dash for a row without a target."""
        judged = self.value if self.on_value else self.ratio
        if self.at_least is not None:
            return "met" if judged >= self.at_least else "MISSED"
        if self.at_most is not None:
            return "met" if judged <= self.at_most else "MISSED"
        return "-"

    def as_dict(self) -> dict[str, object]:
        """Everything in the row, for a file."""
        return {
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "repeats": self.repeats,
            "against": self.against,
            "reference": self.reference,
            "ratio": self.ratio,
            "target": self.target,
            "verdict": self.verdict,
        }


def number(value: float) -> str:
    """Three or four digits that matter, with separators for thousands."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


HEADINGS = ("figure", "measured", "unit", "of", "against", "theirs", "ratio", "target", "verdict")


def render(rows: Sequence[Row]) -> str:
    """Lay the rows out in columns as wide as their contents."""
    cells = [HEADINGS] + [
        (
            row.figure,
            number(row.value),
            row.unit,
            str(row.repeats),
            row.against,
            number(row.reference),
            number(row.ratio),
            row.target,
            row.verdict,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS))]
    right = {1, 3, 5, 6}

    def laid_out(line: Sequence[str]) -> str:
        parts = [
            text.rjust(width) if column in right else text.ljust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    ruler = "  ".join("-" * width for width in widths)
    return "\n".join([laid_out(cells[0]), ruler, *(laid_out(line) for line in cells[1:])])
