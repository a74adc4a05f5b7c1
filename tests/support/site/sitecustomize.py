"""Give every Python process of a test run a stack dump on SIGUSR2 (see ``tests/support/mpirun.py``)."""

import faulthandler
import signal

faulthandler.register(signal.SIGUSR2, all_threads=True, chain=False)
