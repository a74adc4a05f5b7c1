"""Capture of output at the descriptor level; each case runs in a fresh process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]

PRELUDE = """
import ctypes, os, subprocess, sys
from alamo_mpi.errors import InternalError
from alamo_mpi.runtime.capture import Capture

libc = ctypes.CDLL(None)
def shell(script):
    subprocess.run(["sh", "-c", script], check=True)
def expect(what, *wanted):
    assert what == wanted, (what, wanted)
"""


def run(code: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `code` after the prelude in a fresh interpreter; it must end with status 0."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        "PYTHONUNBUFFERED": "",
        **options.pop("env", {}),
    }  # type: ignore[dict-item]
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PRELUDE + textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    return done


def test_python_c_and_children_in_order_nothing_leaks_out():
    done = run(
        """
        print("before", end=""); libc.printf(b" C before")
        capture = Capture(); capture.begin()
        print("python"); sys.stdout.flush()
        libc.printf(b"printf %d\\n", 7); libc.fflush(None)
        os.write(1, b"raw\\n")
        shell("echo child; echo grandchild >&2")
        print("partial", end="", file=sys.stderr)
        libc.puts(b"puts")
        taken = capture.take()
        capture.end()
        expect(taken, b"python\\nprintf 7\\nraw\\nchild\\nputs\\n", b"grandchild\\npartial")
        print("after")
        """
    )
    assert done.stdout == "before C beforeafter\n"
    assert done.stderr == ""


def test_each_take_returns_only_what_is_new():
    run(
        """
        capture = Capture(); capture.begin()
        assert capture.take() is capture.take()
        for i in range(5):
            print("task", i)
            expect(capture.take(), b"task %d\\n" % i, b"")
            expect(capture.take(), b"", b"")
        print("not taken"); capture.end()
        capture.begin(); expect(capture.take(), b"", b""); capture.end()
        """
    )


def test_output_of_c_alone_is_not_missed():
    """C keeps it back in its own buffer, of which Python's streams know nothing."""
    run(
        """
        capture = Capture(); capture.begin()
        for i in range(3):
            libc.printf(b"only C %d", i)
            expect(capture.take(), b"only C %d" % i, b"")
            expect(capture.take(), b"", b"")
        capture.end()
        """
    )


def test_output_of_a_child_alone_is_not_missed():
    run(
        """
        capture = Capture(); capture.begin()
        shell("echo err >&2"); expect(capture.take(), b"", b"err\\n")
        shell("echo out"); expect(capture.take(), b"out\\n", b"")
        capture.end()
        """
    )


def test_a_reference_made_before_is_captured_in_order():
    run(
        """
        from sys import stdout as early
        import logging; handler = logging.StreamHandler(); handler.terminator = ""
        capture = Capture(); capture.begin()
        print("1"); early.write("2\\n"); print("3", file=sys.__stdout__)
        handler.emit(logging.makeLogRecord({"msg": "log"}))
        taken = capture.take(); capture.end()
        expect(taken, b"1\\n2\\n3\\n", b"log")
        """
    )


BREAKAGES = {
    "replaced": "import io; sys.stdout = io.StringIO(); print('gone')",
    "wrapped": "import io; sys.stdout = io.TextIOWrapper(sys.stdout.buffer); print('x')",
    "deleted": "del sys.stdout, sys.stderr",
    "none": "sys.stdout = sys.stderr = None",
    "broken": "sys.stdout = 7",
    "closed": "print('x'); sys.stdout.close(); sys.stderr.close()",
    "dunder_closed": "sys.__stdout__.close()",
    "detached": "sys.stdout.detach()",
    "fd_closed": "os.close(1); os.close(2)",
    "fd_to_null": "n = os.open(os.devnull, os.O_WRONLY); os.dup2(n, 1); os.dup2(n, 2)",
    "fd_to_pipe": "r, w = os.pipe(); os.dup2(w, 1); print('to the pipe')",
    "fd_to_file": "f = open(path, 'w+'); os.dup2(f.fileno(), 1); print('to the file')",
    "not_inheritable": "os.set_inheritable(1, False); print('x')",
    "other_encoding": "sys.stdout.reconfigure(encoding='latin-1'); print('\\u00e9')",
    "truncated_by_child": "shell('echo one >/dev/stdout; echo two >/dev/stderr')",
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_what_a_task_does_to_its_streams_ends_with_it(breakage, tmp_path):
    done = run(
        f"""
        path = {str(tmp_path / "file")!r}
        capture = Capture(); capture.begin()
        def task():
            {BREAKAGES[breakage]}
        print("first"); capture.take()
        task()
        capture.take()
        print("n\\u00e9xt"); print("e", file=sys.stderr); libc.puts(b"C")
        shell("echo child; echo err >&2")
        taken = capture.take()
        capture.end()
        expect(tuple(map(sorted, (t.split() for t in taken))),
               [b"C", b"child", "n\\u00e9xt".encode()], [b"e", b"err"])
        capture.begin(); print("again"); taken = capture.take(); capture.end()
        expect(taken, b"again\\n", b"")
        print("outside"); print("errors", file=sys.stderr)
        """
    )
    assert done.stdout == "outside\n"
    assert done.stderr == "errors\n"
    if breakage == "fd_to_file":
        assert (tmp_path / "file").read_text() == "to the file\n"


def test_output_of_a_child_that_truncates_is_still_found():
    run(
        """
        capture = Capture(); capture.begin()
        print("earlier"); capture.take()
        shell("echo one >/dev/stdout; echo two >>/dev/stdout; echo three >/dev/stderr")
        taken = capture.take()
        print("next"); following = capture.take(); capture.end()
        expect(taken, b"one\\ntwo\\n", b"three\\n")
        expect(following, b"next\\n", b"")
        """
    )


def test_works_when_the_sys_streams_were_replaced_or_are_missing():
    run(
        """
        import io
        mine = sys.stdout = io.StringIO(); sys.stderr = None
        capture = Capture(); capture.begin()
        print("in task"); print("error", file=sys.stderr); libc.puts(b"C")
        taken = capture.take(); capture.end()
        assert sys.stdout is mine and sys.stderr is None
        expect(taken, b"in task\\nC\\n", b"error\\n")
        print("to mine"); assert mine.getvalue() == "to mine\\n"
        sys.stdout = sys.stderr = sys.__stdout__ = sys.__stderr__ = None
        capture.begin(); print("own stream"); taken = capture.take(); capture.end()
        expect(taken, b"own stream\\n", b"")
        assert sys.stdout is None and sys.__stdout__ is None
        """
    )


def test_works_with_closed_descriptors_and_leaves_them_closed():
    run(
        """
        os.close(1); os.close(2)
        capture = Capture(); capture.begin()
        assert capture.real_stderr > 2
        os.write(capture.real_stderr, b"nowhere")
        print("x"); shell("echo err >&2")
        taken = capture.take(); capture.end()
        for fd in (1, 2):
            try: os.fstat(fd)
            except OSError: pass
            else: sys.exit(f"{fd} is open")
        capture.close()
        assert taken == (b"x\\n", b"err\\n")
        """
    )


def test_real_stderr_is_the_true_one_and_private_descriptors_are_not_inherited():
    done = run(
        """
        capture = Capture(); number = capture.real_stderr; capture.begin()
        os.write(capture.real_stderr, b"log line\\n")
        assert capture.real_stderr == number
        child = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE,
                               text=True, close_fds=False)
        capture.end()
        inherited = {int(fd) for fd in child.stdout.split()}
        assert number >= 10 and max(inherited) < 10, inherited
        """
    )
    assert done.stderr == "log line\n"


def test_close_frees_every_descriptor_and_may_be_repeated():
    done = run(
        """
        count = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            capture = Capture(); capture.begin(); print("lost")
            capture.close(); capture.close()
        assert len(os.listdir("/proc/self/fd")) == count
        print("restored")
        """
    )
    assert done.stdout == "restored\n"


def test_calls_out_of_order_are_internal_errors():
    run(
        """
        def refused(call):
            try: call()
            except InternalError: return True
        capture = Capture()
        assert refused(capture.take) and refused(capture.end)
        capture.begin(); refused_twice = refused(capture.begin)
        print("still captured"); taken = capture.take(); capture.end()
        assert refused_twice and taken == (b"still captured\\n", b"")
        assert refused(capture.take)
        capture.close(); assert refused(capture.begin)
        """
    )


def test_a_hundred_megabytes_come_back_and_the_file_does_not_grow():
    run(
        """
        capture = Capture(); capture.begin()
        sizes = []
        for _ in range(2):
            sys.stdout.write("x" * 100_000_000)
            sizes.append(len(capture.take()[0]))
            sizes.append(os.fstat(1).st_blocks * 512)
        print("next"); taken = capture.take(); capture.end()
        assert sizes[0] == sizes[2] == 100_000_000 and max(sizes[1], sizes[3]) < 1 << 20, sizes
        assert taken == (b"next\\n", b"")
        """
    )


@pytest.mark.parametrize(("nbytes", "late"), [(900_000, "late\\n"), (3_000_000, "")])
def test_a_writer_that_outlives_its_task_never_overwrites(nbytes, late):
    run(
        f"""
        capture = Capture(); capture.begin()
        child = subprocess.Popen(["sh", "-c", "read go; echo late"], stdin=subprocess.PIPE)
        print("y" * {nbytes}); capture.take()
        print("next", flush=True); child.communicate(b"go\\n")
        taken = capture.take(); capture.end()
        assert taken == (b"next\\n{late}", b""), taken
        """
    )


def test_a_forked_child_is_captured():
    run(
        """
        capture = Capture(); capture.begin()
        pid = os.fork()
        if pid == 0:
            print("forked", flush=True); os._exit(0)
        os.waitpid(pid, 0)
        taken = capture.take(); capture.end()
        assert taken == (b"forked\\n", b"")
        """
    )


@pytest.mark.parametrize(("unbuffered", "limit"), [("", 1 << 21), ("", 1 << 23), ("1", 1 << 23)])
def test_a_full_disk_is_the_tasks_error_and_the_next_task_prints(unbuffered, limit):
    run(
        f"""
        import resource
        capture = Capture(); capture.begin()
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
        try:
            print("z" * 9_000_000, flush=True); failed = False
        except OSError:
            failed = True
        written = len(capture.take()[0])
        print("next"); taken = capture.take(); capture.end()
        assert failed and written > {limit} - 1_200_000, written
        assert taken == (b"next\\n", b""), taken[0][:40]
        """,
        env={"PYTHONUNBUFFERED": unbuffered},
    )


def test_a_thread_in_input_does_not_block_take():
    """C's stdin is locked while a thread reads from it, so only C's stdout may be flushed."""
    read, write = os.pipe()
    try:
        run(
            """
            import threading
            reading = threading.Event()
            def reader():
                reading.set(); libc.getchar()
            thread = threading.Thread(target=reader, daemon=True); thread.start()
            reading.wait()
            stat = f"/proc/self/task/{thread.native_id}/syscall"
            while not open(stat).read().startswith("0 "): os.sched_yield()
            capture = Capture(); capture.begin(); print("x")
            taken = capture.take(); capture.end()
            assert taken == (b"x\\n", b"")
            os.write(GO, b"x"); thread.join()
            """.replace("GO", str(write)),
            stdin=read,
            pass_fds=[write],
        )
    finally:
        os.close(read)
        os.close(write)


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_an_unusable_temporary_directory_is_named(kind, tmp_path):
    place = tmp_path / "nowhere"
    if kind == "file":
        place.write_text("")
    run(
        f"""
        try: Capture()
        except OSError as error:
            assert {str(place)!r} in str(error) and "TMPDIR" in str(error), error
        else: sys.exit("no error")
        """,
        env={"TMPDIR": str(place)},
    )


def test_the_output_file_lies_in_tmpdir_and_has_no_name_there(tmp_path):
    run(
        f"""
        capture = Capture(); capture.begin()
        target = os.readlink("/proc/self/fd/1"); capture.end()
        assert target.startswith({str(tmp_path)!r}), target
        assert os.listdir({str(tmp_path)!r}) == []
        """,
        env={"TMPDIR": str(tmp_path)},
    )


def test_under_pytest_itself(capfd):
    """The streams of a test runner are left alone, and work again afterwards."""
    from alamo_mpi.runtime.capture import Capture

    capture = Capture()
    try:
        capture.begin()
        print("captured")
        taken = capture.take()
        capture.end()
        print("visible")
    finally:
        capture.close()
    assert taken == (b"captured\n", b"")
    assert capfd.readouterr().out == "visible\n"
