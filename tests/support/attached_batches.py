"""Programs that are no ranks and run tasks: `tests/mpi/test_attached_batches.py` starts them.

    python tests/support/attached_batches.py PART FILE

FILE holds pickled arguments of PART, a function below; what it returns is printed as its repr, and
what it raises fails the program.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

import alamo_mpi
from alamo_mpi import (
    Batch,
    CancelledError,
    DDict,
    DependencyError,
    GatewayError,
    Queue,
    TaskStateError,
)

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 45.0


def start(part: str, folder: Path, *arguments: Any) -> subprocess.Popen[str]:
    """Start a part of this file as a program; on a rank, or anywhere else."""
    path = folder / f"{part}-{os.getpid()}-{time.monotonic_ns()}"
    path.write_bytes(pickle.dumps(arguments))
    argv = [sys.executable, __file__, part, str(path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(argv, stdout=pipe, stderr=pipe, text=True, env=env)


def finish(program: subprocess.Popen[str]) -> str:
    """Wait for such a program, letting others use this worker; return what it has printed."""
    with alamo_mpi.waiting():
        try:
            out, err = program.communicate(timeout=LIMIT_S)
        finally:
            program.kill()
    assert program.returncode == 0, f"{program.args}: {program.returncode}\n{out}\n{err}"
    return out.strip()


def run(part: str, folder: Path, *arguments: Any) -> str:
    """Run a part to its end; in a task, or anywhere else."""
    return finish(start(part, folder, *arguments))


# ------------------------------------------------------------------------------------- tasks


def square(x: int) -> int:
    return x * x


def fail(text: str) -> None:
    raise LookupError(text)


def say(text: str) -> None:
    print(text)
    print(text, file=sys.stderr)


def double(array: Any) -> Any:
    array *= 2
    return array


def sleep_long() -> None:
    for _ in range(1000):
        time.sleep(0.1)


def wait_for_go(d: DDict[Any, Any]) -> Any:
    return d.wait_for("go", timeout=LIMIT_S)


def nap(path: Path) -> str:
    time.sleep(0.3)
    path.write_text("done")
    return "done"


# ------------------------------------------------------------------------------------- parts


def outcome(call: Any, *args: Any) -> object:
    try:
        return call(*args)
    except Exception as error:
        return error


def raises(kind: type[BaseException], what: str, call: Any, *args: Any) -> None:
    error = outcome(call, *args)
    assert isinstance(error, kind), repr(error)
    assert what in str(error), repr(error)


def use(folder: Path) -> str:
    """All that a batch can do, in one of this process's own."""
    with Batch() as batch:
        uids = set()
        for x in range(5):
            task = batch.function(square, x)
            assert task.run() == x * x
            uids.add(task.uid)
        assert len(uids) == 5
        squares = [batch.function(square, x) for x in range(50)]
        total = batch.function(max, *squares)
        whole = batch.compile([*squares, total])
        whole.run()
        assert total.result.get() == 49 * 49
        path = folder / f"chain-{os.getpid()}"
        chain = [
            batch.process(f"echo {i} >> {path}", shell=True, writes=batch.write(path))
            for i in range(5)
        ]
        batch.compile(chain).run()
        assert path.read_text().split() == list("01234")
        task = batch.function(say, "hello")
        task.run()
        assert (task.stdout.get(), task.stderr.get()) == ("hello\n", "hello\n")
        failed = batch.function(fail, "nothing here")
        after = batch.function(square, failed)
        batch.compile([failed, after]).start()
        raises(LookupError, "nothing here", failed.result.get)
        raises(DependencyError, "was not run", after.result.get)
        big = np.arange(1 << 18)
        np.testing.assert_array_equal(batch.function(double, big).run(), 2 * big)
        assert big[1] == 1
        much = batch.function(print, "x" * 3_000_000)
        much.run()
        assert len(much.stdout.get()) == 3_000_001
        assert batch.job("true", (), 1).run() == [0]
        raises(TaskStateError, "close() before join()", batch.join)
        task = batch.function(sleep_long)
        task.start()
        raises(TimeoutError, "has not ended", task.wait, 0.05)
        task.cancel()
        raises(CancelledError, "cancelled", task.result.get)
    raises(TaskStateError, "closed", batch.function(square, 1).start)
    with Batch(enable_telem=True) as recorded:
        recorded.function(square, 3).run()
        recorded.close()
        recorded.join()
        assert [row["name"] for row in recorded.telemetry().rows()] == ["square"]
    ended = Batch()
    task = ended.function(sleep_long)
    task.start()
    ended.terminate()
    raises(CancelledError, "cancelled", task.result.get)
    assert "mpi4py.MPI" not in sys.modules
    return "used"


def callbacks(batch: Batch) -> str:
    """They run in this process: where it waits, and without it."""
    seen: list[int] = []
    came = threading.Event()
    task = batch.function(square, 3, callback_func=seen.append)
    task.run()
    assert seen == [9]
    quiet = batch.function(square, 4, callback_func=lambda value: (seen.append(value), came.set()))
    quiet.start()
    assert came.wait(LIMIT_S)
    assert seen == [9, 16]
    quiet.wait()
    nested = batch.function(
        square, 5, callback_func=lambda value: seen.append(batch.function(square, value).run())
    )
    nested.run()
    assert seen[2:] == [625]
    wrong = batch.function(square, 6, callback_func=fail)
    logging.disable()
    raises(LookupError, "36", wrong.wait) if outcome(wrong.start) is None else None
    batch.close()
    return "called"


def shared(batch: Batch, d: DDict[Any, Any], q: Queue[Any]) -> str:
    """Batches by a dictionary and by a queue, and to another program."""
    d["batch"] = batch
    q.put(batch)
    copies = [d["batch"], q.get()]
    values = [copy.function(square, x).run() for x, copy in enumerate(copies, 5)]
    for copy in copies:
        copy.close()
    batch.close()
    return repr(values)


def from_threads(batch: Batch, threads: int, count: int) -> str:
    """Several threads of one process start, wait, and make batches at once."""
    found: list[int] = []

    def work(number: int) -> None:
        own = Batch()
        for x in range(count):
            found.append(batch.function(square, number * count + x).run())
            found.append(own.function(square, x).run())
        own.close()
        own.join()

    running = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for each in running:
        each.start()
    for each in running:
        each.join(LIMIT_S)
    batch.close()
    return str(sum(found))


def in_children(batch: Batch, d: DDict[Any, Any]) -> str:
    """A batch that a forked child inherits, and one that a spawned child gets."""
    parents = batch.function(wait_for_go, d)
    parents.start()
    done = batch.function(bytes, 1 << 20)
    done.run()
    for method, child in (("fork", _inherit), ("spawn", _get)):
        context = multiprocessing.get_context(method)
        answers = context.Queue()
        arguments = (answers, batch, *((parents, done) if method == "fork" else ()))
        process = context.Process(target=child, args=arguments)
        process.start()
        assert answers.get(timeout=LIMIT_S) == 49
        process.join(LIMIT_S)
        assert process.exitcode == 0
    assert batch.function(square, 8).run() == 64
    d["go"] = "went"
    assert parents.result.get() == "went"
    batch.close()
    return "children"


def _inherit(answers: Any, batch: Batch, parents: Any, done: Any) -> None:
    for wait in (parents.wait, parents.result.get):
        raises(TaskStateError, "forked from", wait)
    assert len(done.result.get()) == 1 << 20
    raises(TaskStateError, "forked from", batch.function(len, done).start)
    _get(answers, batch)


def _get(answers: Any, batch: Batch) -> None:
    answers.put(batch.function(pow, 7, 2).run())


def wait_in_vain(batch: Batch, q: Queue[Any], own: bool) -> str:
    """Start tasks, say so, and wait for them until killed."""
    first = batch.function(sleep_long)
    first.start()
    for _ in range(20):
        batch.function(square, 1).start()
    if own:
        mine = Batch()
        mine.function(sleep_long).start()
    q.put(os.getpid())
    first.wait()
    raises(TaskStateError, "was terminated", batch.function(square, 1).start)
    raises(CancelledError, "cancelled", first.result.get)
    return "cancelled"


def wait_for_a_held_worker(batch: Batch) -> str:
    """Wait for longer than it takes to say that no worker begins."""
    task = batch.function(square, 3)
    task.start()
    error = outcome(task.wait, 7.0)  # none if another task has ended meanwhile
    assert error is None or isinstance(error, TimeoutError), error
    batch.close()
    return "held"


def leave_open(batch: Batch, path: Path) -> str:
    """End without a word about the batch, while tasks are unfinished."""
    batch.function(nap, path).start()
    return "left"


def read_late(batch: Batch, q: Queue[Any], count: int) -> str:
    """Stop for a while with many results on the way; started again, get them all."""
    tasks = [batch.function(bytes, 60_000) for _ in range(count)]
    whole = batch.compile(tasks)
    whole.start()
    q.put(os.getpid())
    whole.wait()
    batch.close()
    return str(sum(len(task.result.get()) for task in tasks))


def detach(batch: Batch) -> str:
    with alamo_mpi.attach() as attachment:
        raises(TaskStateError, "attached to rank", alamo_mpi.init)
        assert Batch is type(batch)
    # Unpickling has attached as well, and that lasts.
    assert batch.function(square, 2).run() == 4
    task = batch.function(time.sleep, 3)
    task.start()
    waiting = threading.Thread(target=lambda: errors.append(outcome(task.wait)))
    errors: list[object] = []
    waiting.start()
    from alamo_mpi import attachment as room

    for each in list(room._attachments):
        each.detach()
    attachment.detach()
    waiting.join(LIMIT_S)
    assert isinstance(errors[0], GatewayError), errors
    raises(GatewayError, "detached", batch.function(square, 2).run)
    return "detached"


def attach_first() -> str:
    """What a program of `Batch.process` does: its environment is that of no rank."""
    with alamo_mpi.attach(), Batch() as batch:
        return str(batch.function(square, 9).run())


def outlive(batch: Batch, q: Queue[Any], log: Path) -> None:
    task = batch.function(sleep_long)
    task.start()
    q.put(os.getpid())
    begin = time.monotonic()
    error = outcome(task.wait)
    log.write_text(f"{type(error).__name__} {time.monotonic() - begin:.1f} {error}")


def main() -> None:
    part, path = sys.argv[1:]
    print(globals()[part](*pickle.loads(Path(path).read_bytes())))


if __name__ == "__main__":
    main()
