"""A program that fails while a task runs."""

import time

from alamo_mpi import Batch

batch = Batch()
batch.function(time.sleep, 600).start()
raise ValueError("not today")
