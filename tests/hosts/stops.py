"""A program that counts up, is stopped in its first run, and goes on in the next."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from alamo_mpi import Batch, StopSignal

state = Path(sys.argv[1])
count = int(state.read_text()) if state.exists() else 0
print("run", os.environ.get("SLURM_RESTART_COUNT", "0"), "begins at", count, flush=True)
try:
    with Batch() as batch:
        while count < 100:
            count += batch.function(pow, 1, 1).run()
            if count == 50:  # until somebody stops this run
                Path(f"{state}.waits").touch()
                batch.function(time.sleep, 600).run()
except (KeyboardInterrupt, StopSignal) as stop:
    state.write_text("51")
    with open(f"{state}.stopped", "a") as file:
        print(f"{stop!r} at {count}", file=file)
    print("saved at", count, flush=True)
    sys.exit(1)
print("done at", count, flush=True)
