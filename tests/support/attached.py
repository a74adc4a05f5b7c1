"""Programs that tasks start: they are no ranks, and use the ranks' dictionaries.

    python tests/support/attached.py PART FILE [argument]

FILE holds a pickled `DDict`.  Each part is a function below; what it asserts fails the program.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty
from typing import Any

import numpy as np

import alamo_mpi
from alamo_mpi import (
    Batch,
    DDict,
    DDictFrozenError,
    DDictFullError,
    DDictTimeoutError,
    GatewayError,
    Queue,
    QueueClosedError,
    QueueDestroyedError,
    TaskStateError,
)
from alamo_mpi.runtime import home
from alamo_mpi.runtime.gateway.address import VARIABLE, parse
from alamo_mpi.runtime.gateway.requests import HELLO

NOBODY = 65534


def raises(kind: type[BaseException], what: str, call: Any, *args: Any) -> None:
    error = outcome(call, *args)
    assert isinstance(error, kind), error
    assert what in str(error), error


def outcome(call: Any, *args: Any) -> object:
    try:
        return call(*args)
    except Exception as error:
        return error


def use(d: DDict[Any, Any]) -> None:
    """Large values, pages, placement, figures, errors: what the suite of mappings does not see."""
    array = np.arange(3 << 17)
    d["array"] = array
    copy = d["array"]
    copy[0] = -1
    np.testing.assert_array_equal(d["array"], array)
    d["bytes"] = bytes(100_000)
    assert d["bytes"] == bytes(100_000)
    assert d.owner("array") == (d._home.rank, d._home.hosts[d._home.rank])
    here = set(d.local_keys())
    assert here - {"from the task"} == {"array", "bytes"}
    assert d.local_len() == len(here) == len(dict(d.local_items()))
    d.update({i: i for i in range(500)})
    assert sum(key for key in d if type(key) is int) == sum(range(500))
    iteration = iter(d.items())
    next(iteration)
    del iteration
    assert len(d) == 503  # with the one that the task had written
    assert d["from the task"] == "hello"
    assert sum(row["keys"] for row in d.stats()) == 503
    assert d.compare_and_set("set", 1, 2) is False
    d["set"] = [1]
    assert d.compare_and_set("set", [1], [2])
    assert d.wait_for("set", value=[2]) == [2]
    raises(DDictTimeoutError, "'set' has another value", wait_for_value, d)
    raises(DDictTimeoutError, "'absent' is missing", lambda: d.get("absent", timeout=0.2))
    assert d.pop("set") == [2]
    assert d.channel_key("set") == d.channel_key("s" + "et")
    d.freeze()
    raises(DDictFrozenError, "frozen", d.__setitem__, "set", 1)
    d.unfreeze()
    with DDict(near=0, total_mem=100_000) as bounded:
        bounded["fits"] = bytes(50_000)
        raises(DDictFullError, "total_mem", bounded.__setitem__, "more", bytes(60_000))
        assert bounded.owner("fits").rank == 0
    d["made here"] = made = DDict({"x": 1})
    assert d["made here"] == made
    raises(TaskStateError, "attached to rank", alamo_mpi.init)
    assert "mpi4py.MPI" not in sys.modules


def queue(d: DDict[Any, Any]) -> None:
    """Queues go both ways; what waits here is woken by forked children and the other way round."""
    with Queue[Any](maxsize=2, near=0) as q:
        d["queue"] = q
        child = multiprocessing.get_context("fork").Process(target=produce, args=(q,))
        child.start()
        got = list(q)
        child.join(60)
        assert child.exitcode == 0
        assert [number for number, _ in got] == list(range(20))
        assert all((array == number).all() for number, array in got)
        raises(QueueClosedError, "closed", q.put, 1)
        assert q.stats()["rank"] == 0
    raises(QueueDestroyedError, "destroyed", d["queue"].qsize)
    with Queue[Any]() as q:
        raises(Empty, "", q.get_nowait)


def produce(q: Queue[Any]) -> None:
    for number in range(20):
        q.put((number, np.full(30_000, number)))
    q.close()


def wait_for_value(d: DDict[Any, Any]) -> Any:
    return d.wait_for("set", value=[3], timeout=0.01)


def count(d: DDict[Any, Any]) -> None:
    """Threads of one process, one of them waiting, and forked children, all at once."""
    seen: list[Any] = []
    waiting = threading.Thread(target=lambda: seen.append(d.wait_for("go", timeout=60)))
    waiting.start()

    def add() -> None:
        for _ in range(50):
            d.fetch_add("n")

    threads = [threading.Thread(target=add) for _ in range(3)]
    children = [multiprocessing.get_context("fork").Process(target=add) for _ in range(2)]
    for worker in (*threads, *children):
        worker.start()
    for worker in (*threads, *children):
        worker.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    d["go"] = "went"
    waiting.join(60)
    assert seen == ["went"]


def attach_and_detach(d: DDict[Any, Any]) -> None:
    """Attachments are counted; after the last nothing can be used, until the next."""
    first, again = alamo_mpi.attach(), alamo_mpi.attach()  # unpickling has attached too
    assert first.rank == d._home.rank
    assert first.size == d._home.size
    assert str(first.rank) in repr(first)
    with alamo_mpi.attach():
        pass
    first.detach()
    first.detach()
    again.detach()
    assert d["from the task"] == "hello"


def attach_by_hand(path: Path) -> None:
    """Nothing was unpickled before."""
    with alamo_mpi.attach():
        d = pickle.loads(path.read_bytes())
        assert d["from the task"] == "hello"
        assert home.exists()
    raises(GatewayError, "detached", d.get, "from the task")
    assert not home.exists()
    with alamo_mpi.attach():
        assert pickle.loads(path.read_bytes())["from the task"] == "hello"
    del os.environ[VARIABLE]
    raises(GatewayError, "is not set", alamo_mpi.attach)
    os.environ[VARIABLE] = "rubbish"
    raises(GatewayError, "names no gateway", alamo_mpi.attach)
    os.environ[VARIABLE] = f"alamo-mpi-none/{'0' * 32}/0-0"
    raises(GatewayError, "There is no program at", alamo_mpi.attach)


def descend(d: DDict[Any, Any], path: str, generations: str) -> None:
    """A program started by a program started by a task; and one started by `multiprocessing`."""
    d.fetch_add("generations")
    if int(generations):
        argv = [sys.executable, __file__, "descend", path, str(int(generations) - 1)]
        assert subprocess.run(argv, timeout=60).returncode == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.apply(d.fetch_add, ("spawned",))


def as_nobody(d: DDict[Any, Any]) -> None:
    """Another user gets in nowhere, though it knows name and token."""
    pid = os.fork()
    if pid:
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        return
    try:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        raises(GatewayError, "belongs to another user", d.get, "from the task")
        address = parse(os.environ[VARIABLE])
        assert answer_to(HELLO + address.token) == b""
        os._exit(0)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        os._exit(1)


def say_rubbish(d: DDict[Any, Any]) -> None:
    """Wrong tokens and broken messages end one connection, and nothing else."""
    address = parse(os.environ[VARIABLE])
    assert answer_to(HELLO + bytes(16)) == b""
    assert answer_to(b"GET / HTTP/1.1\r\n\r\n" + bytes(100)) == b""
    assert answer_to(b"") == b""
    with connected() as connection:
        connection.sendall(HELLO + address.token)
        assert connection.recv(1 << 16)
        connection.sendall(b"\1" * 1000)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1 << 16) == b""
    assert d["from the task"] == "hello"


def connected() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(60)
    connection.connect(parse(os.environ[VARIABLE]).socket_name)
    return connection


def answer_to(data: bytes) -> bytes:
    """Return what a connection that begins like this gets before its end."""
    with connected() as connection:
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1 << 16)
        except (BrokenPipeError, ConnectionResetError):
            return b""


def outlive(d: DDict[Any, Any], path: str, log: str) -> None:
    """Wait for what never comes; write down how that ended."""
    d["waiting"] = os.getpid()
    try:
        d.wait_for("never")
    except GatewayError as error:
        raises(GatewayError, "the program has ended", d.get, "from the task")
        Path(log).write_text(f"GatewayError: {error}")


def outlive_tasks(d: DDict[Any, Any], path: str, log: str) -> None:
    """Wait for a task that does not end; write down how that ended, and how soon."""
    task = Batch().function(lambda: [time.sleep(0.1) for _ in range(1000)])
    task.start()
    d["waiting"] = os.getpid()
    try:
        task.wait()
    except GatewayError as error:
        raises(GatewayError, "the program has ended", task._batch.function(pow, 2, 2).start)
        Path(log).write_text(f"GatewayError: {error}")


def main() -> None:
    part, path, *rest = sys.argv[1:]
    if part == "attach_by_hand":
        attach_by_hand(Path(path))
        return
    d = pickle.loads(Path(path).read_bytes())
    function = globals()[part]
    function(d, path, *rest) if rest else function(d)


if __name__ == "__main__":
    main()
