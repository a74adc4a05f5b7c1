"""Hazards."""

from __future__ import annotations

import enum

__all__ = ["Hazard"]


class Hazard(enum.IntFlag):
    """Why one task must wait for another; an edge may have several reasons."""

    RAW = 1
    WAR = 2
    WAW = 4
    RAR = 8
    VALUE = 16
