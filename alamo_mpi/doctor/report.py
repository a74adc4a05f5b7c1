"""How findings are told: lines for people, JSON for programs.  Pure."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["BROKEN", "GOOD", "SLOW", "Finding", "as_json", "as_text", "status_of_findings"]

GOOD, SLOW, BROKEN = "good", "slow", "broken"
_WIDTH = 96


class Finding(NamedTuple):
    """One line of the report.

    Attributes
    ----------
    name : str
        What was looked at.
    verdict : str
        `GOOD`, `SLOW` (works, with a price) or `BROKEN`.
    meaning : str
        What was seen, and what it means; a sentence.
    remedy : str
        What to do; empty where all is well.
    """

    name: str
    verdict: str
    meaning: str
    remedy: str = ""


def as_text(findings: Sequence[Finding]) -> str:
    """Return the report as lines."""
    width = max((len(finding.name) for finding in findings), default=0)
    lines = []
    for finding in findings:
        head = f"{finding.verdict:<7} {finding.name:<{width}}  "
        text = finding.meaning + (f" -> {finding.remedy}" if finding.remedy else "")
        indent = " " * len(head)
        lines.append(
            textwrap.fill(
                text,
                _WIDTH,
                initial_indent=head,
                subsequent_indent=indent,
                break_on_hyphens=False,
                break_long_words=False,
            )
        )
    return "\n".join([*lines, _summary(findings)]) + "\n"


def as_json(findings: Sequence[Finding]) -> str:
    """Return the report as a JSON object with ``status`` and ``findings``."""
    return (
        json.dumps(
            {
                "status": status_of_findings(findings),
                "findings": [finding._asdict() for finding in findings],
            },
            indent=2,
        )
        + "\n"
    )


def status_of_findings(findings: Sequence[Finding]) -> int:
    """Return the exit status: 1 where something is broken."""
    return int(any(finding.verdict == BROKEN for finding in findings))


def _summary(findings: Sequence[Finding]) -> str:
    counts = {
        verdict: sum(finding.verdict == verdict for finding in findings)
        for verdict in (GOOD, SLOW, BROKEN)
    }
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
