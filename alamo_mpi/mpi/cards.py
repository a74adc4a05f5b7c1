"""The network cards of this host that serve memory by themselves: RDMA hardware."""

from __future__ import annotations

import contextlib
import os
from typing import Final

__all__ = ["INFINIBAND", "SLINGSHOT", "has_card"]

#: InfiniBand, RoCE, Omni-Path, and Amazon's EFA.
INFINIBAND: Final = "/sys/class/infiniband"
SLINGSHOT: Final = "/sys/class/cxi"


def has_card(*kinds: str) -> bool:
    """Tell whether this host has a card of one of `kinds`; of any kind where none is given."""
    for kind in kinds or (INFINIBAND, SLINGSHOT):
        with contextlib.suppress(OSError):
            if os.listdir(kind):
                return True
    return False
