"""What the benchmarks of the services measure beside them: servers and processes without MPI."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

__all__ = ["measured", "redis_server"]

#: Variables by which a process finds its place in an MPI launcher.
_LAUNCHERS = ("PMI", "OMPI_", "PRTE_", "HYDI", "HYDRA_", "MPI_LOCAL", "PMIX_")


@contextlib.contextmanager
def redis_server() -> Iterator[str | None]:
    """Start a Redis server of our own; give its unix socket, or None where there is no Redis."""
    try:
        import redis
    except ImportError:
        yield None
        return
    server = shutil.which("redis-server")
    if server is None:
        yield None
        return
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        socket = f"{folder}/redis.sock"
        options = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
        with subprocess.Popen(
            [server, *options, "--dir", folder], stdout=subprocess.DEVNULL
        ) as process:
            client = redis.Redis(unix_socket_path=socket)
            deadline = time.monotonic() + 10
            while True:
                try:
                    client.ping()
                    break
                except redis.ConnectionError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            yield socket
            client.close()
            process.terminate()


def measured(name: str, argv: Sequence[str], timeout_s: float = 150) -> Any:
    """Return the JSON that a program prints on its last line, run without MPI's environment.

    Says why and returns None if it fails, or has not ended in time.
    """
    env = {key: text for key, text in os.environ.items() if not key.startswith(_LAUNCHERS)}
    process = subprocess.Popen(
        argv,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        print(f"({name}: has not ended within {timeout_s:.0f} s)")
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it may have left, too
    if process.returncode:
        print(f"({name}: {(err.strip().splitlines() or ['failed'])[-1]})")
        return None
    lines = [line for line in out.splitlines() if line.startswith(("{", "null"))]
    return json.loads(lines[-1])
