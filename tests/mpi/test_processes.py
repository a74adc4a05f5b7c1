"""Batch.process: a program as a task, with the arguments of `subprocess.Popen`."""

from __future__ import annotations

import errno
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from alamo_mpi import AsyncDict, Batch, DependencyError, SerializationError, Task


def sh(line: str) -> list[str]:
    return ["sh", "-c", line]


def output(batch: Batch, args: Any, **options: Any) -> str:
    task = batch.process(args, check=True, **options)
    assert task.run() == 0
    assert task.stderr.get() == ""
    text: str = task.stdout.get()
    return text


# ------------------------------------------------------------------------- status and output


@pytest.mark.parametrize(("line", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9)])
def test_the_result_is_the_exit_status(batch: Batch, line: str, status: int) -> None:
    task = batch.process(sh(f"echo out; echo err >&2; {line}"))
    assert task.run() == status
    assert (task.stdout.get(), task.stderr.get()) == ("out\n", "err\n")
    assert task.result.get() == status


def test_every_form_of_args(batch: Batch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho program $# $1\n")
    program.chmod(0o755)
    forms: list[Any] = [str(program), program, os.fsencode(program), [program], (str(program),)]
    tasks = [batch.process(form) for form in forms]
    batch.compile(tasks).run()
    assert [task.stdout.get() for task in tasks] == ["program 0\n"] * len(forms)
    assert output(batch, [program, b"a b", tmp_path]) == "program 2 a b\n"
    assert output(batch, "echo $0 $((1 + 1))", shell=True, executable="/bin/sh") == "/bin/sh 2\n"
    assert output(batch, ["other name", "-c", "echo $0"], executable="/bin/sh") == "other name\n"


def test_a_mix_of_functions_and_programs_in_one_graph(batch: Batch, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    tasks: list[Task] = [
        batch.function(first.write_text, "b\na\nc\n", writes=batch.write(first)),
        batch.process(
            ["sort", first], stdout=second, reads=batch.read(first), writes=batch.write(second)
        ),
        batch.function(second.read_text, reads=batch.read(second)),
    ]
    batch.compile(tasks).run()
    assert tasks[-1].result.get() == "a\nb\nc\n"
    assert tasks[1].result.get() == 0
    assert tasks[1].stdout.get() == ""


def test_the_status_can_be_an_argument_and_goes_to_the_callback(batch: Batch) -> None:
    got: list[Any] = []
    task = batch.process(sh("exit 4"), callback_func=lambda *a: got.append(a), callback_args=(1,))
    double = batch.function(pow, task, 2)
    batch.compile([task, double]).run()
    assert double.result.get() == 16
    assert got == [(4, 1)]


def test_many_programs_leave_no_descriptor(batch: Batch) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    batch.process("true").run()
    batch.compile([batch.process("true") for _ in range(5 * batch.num_workers)]).run()
    before = batch.function(descriptors).run() if batch.num_workers == 1 else None
    tasks = [batch.process(sh(f"echo {i}; exit {i}")) for i in range(40)]
    batch.compile(tasks).run()
    assert [task.result.get() for task in tasks] == list(range(40))
    assert [task.stdout.get() for task in tasks] == [f"{i}\n" for i in range(40)]
    assert before is None or batch.function(descriptors).run() == before


# ------------------------------------------------------------------------------------ streams


def test_streams_to_and_from_files(batch: Batch, tmp_path: Path) -> None:
    given, out, err = tmp_path / "given", tmp_path / "out", tmp_path / "err"
    given.write_text("given")
    out.write_text("old, and longer than what is new")
    line = "cat; echo err >&2"
    task = batch.process(sh(line), stdin=given, stdout=str(out), stderr=os.fsencode(err))
    assert task.run() == 0
    assert (task.stdout.get(), task.stderr.get()) == ("", "")
    assert (out.read_text(), err.read_text()) == ("given", "err\n")
    assert output(batch, ["cat"]) == ""  # nothing to read, and no wait for it
    assert output(batch, ["cat"], stdin=subprocess.DEVNULL) == ""


def test_stdout_and_stderr_together(batch: Batch, tmp_path: Path) -> None:
    line = "echo one; echo two >&2; echo three"
    assert output(batch, sh(line), stderr=subprocess.STDOUT) == "one\ntwo\nthree\n"
    same = tmp_path / "same"
    for stderr in (subprocess.STDOUT, tmp_path / "." / "same"):
        assert output(batch, sh(line), stdout=same, stderr=stderr) == ""
        assert same.read_text() == "one\ntwo\nthree\n"


def test_the_constants(batch: Batch) -> None:
    line = sh("echo out; echo err >&2")
    task = batch.process(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    task.run()
    assert (task.stdout.get(), task.stderr.get()) == ("out\n", "")
    task = batch.process(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    task.run()
    assert (task.stdout.get(), task.stderr.get()) == ("", "err\n")


def test_how_the_output_becomes_text(batch: Batch) -> None:
    line = sh(r"printf 'gr\374n\r\n'")
    assert output(batch, line) == "gr\ufffdn\r\n"
    assert output(batch, line, text=True) == "gr\ufffdn\n"
    assert output(batch, line, universal_newlines=True) == "gr\ufffdn\n"
    assert output(batch, line, encoding="latin-1") == "grün\n"
    task = batch.process(line, errors="strict")
    assert task.run() == 0
    with pytest.raises(UnicodeDecodeError):
        task.stdout.get()


def peak_kib() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


def forget_peak() -> int:
    Path("/proc/self/clear_refs").write_text("5")
    return peak_kib()


def test_much_output_does_not_pass_through_the_workers_memory(batch: Batch, alone: bool) -> None:
    count = 3 * batch.num_workers
    before = [batch.function(forget_peak) for _ in range(count)]
    batch.compile(before).run()
    task = batch.process("yes 0123456789abcde | head -c 96000000", shell=True)
    task.start()
    task.wait()
    after = [batch.function(peak_kib) for _ in range(count)]
    batch.compile(after).run()
    highest = max(each.result.get() for each in before)
    assert max(each.result.get() for each in after) - highest < 20_000
    if alone:
        return
    text = task.stdout.get()
    assert len(text) == 96_000_000
    assert text[:17] == "0123456789abcde\n0"
    assert text[-16:] == "0123456789abcde\n"
    after = [batch.function(peak_kib) for _ in range(count)]
    batch.compile(after).run()
    assert max(each.result.get() for each in after) - highest < 40_000


# ------------------------------------------------------------------------ where and how it runs


def test_directory_and_relative_paths(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("#!/bin/sh\npwd; cat\n")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "in").write_text("input")
    text = output(batch, ["./run"], cwd=tmp_path, stdin="in", stdout="out")
    assert text == ""
    assert (tmp_path / "out").read_text() == f"{tmp_path}\ninput"
    here = batch.function(os.getcwd).run()
    assert output(batch, ["pwd"]) == f"{here}\n"


def test_the_environment_is_the_workers_without_the_marks_of_a_rank(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    marks = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "MPI_LOCAL")
    monkeypatch.setenv("PMI_RANK", os.environ.get("PMI_RANK", "0"))

    def names(text: str) -> set[str]:
        return {line.partition("=")[0] for line in text.splitlines()}

    inherited = names(output(batch, ["env"]))
    assert {"PATH", "HOME"} <= inherited
    copied = names(output(batch, ["env"], env={**os.environ, "MINE": "1"}))
    assert {"PATH", "HOME", "MINE"} <= copied
    for found in (inherited, copied):
        wrong = {name for name in found if name.startswith(marks)}
        settings = ("OMPI_ALLOW", "OMPI_MCA_", "PRTE_MCA_", "PMIX_MCA_")
        assert all(name.startswith(settings) for name in wrong)


def test_a_given_environment_is_the_whole_one(batch: Batch) -> None:
    text = output(batch, ["/usr/bin/env"], env={"PMI_RANK": "given", b"B": b"\xff"})
    lines = {line for line in text.splitlines() if not line.startswith("ALAMO_GATEWAY=")}
    assert lines == {"PMI_RANK=given", "B=\ufffd"}


def test_a_large_environment_and_long_arguments(batch: Batch) -> None:
    env = {**os.environ, **{f"VARIABLE_{i}": "x" * 1000 for i in range(300)}}
    words = ["word" * 1000] * 50
    text = output(batch, ["sh", "-c", "echo $# ${#VARIABLE_299}", "sh", *words], env=env)
    assert text == "50 1000\n"


def test_what_is_set_in_the_child(batch: Batch) -> None:
    assert output(batch, "umask", shell=True, umask=0o27).strip().endswith("027")
    # A leader of its own session and group, whatever is asked for.
    leads = "import os; print(os.getsid(0) == os.getpgid(0) == os.getpid())"
    for more in ({}, {"start_new_session": True}, {"process_group": 0}):
        assert output(batch, [sys.executable, "-c", leads], **more) == "True\n"
    for restored in (True, False):
        line = output(batch, ["grep", "SigIgn", "/proc/self/status"], restore_signals=restored)
        ignored = int(line.split()[1], 16) >> (signal.SIGPIPE - 1) & 1
        assert ignored == (not restored)


def note(path: Path) -> None:
    path.write_text(f"{os.getppid()}")


def test_preexec_fn_runs_in_the_child(batch: Batch, tmp_path: Path) -> None:
    noted = tmp_path / "noted"
    for function in (functools.partial(note, noted), lambda: note(noted)):
        noted.unlink(missing_ok=True)
        assert output(batch, sh("echo $PPID"), preexec_fn=function) == noted.read_text() + "\n"
    task = batch.process("true", preexec_fn=lambda: 1 // 0)
    task.start()
    with pytest.raises(subprocess.SubprocessError, match="preexec_fn"):
        task.result.get()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become another user")
def test_another_user(batch: Batch) -> None:
    options = {"user": "nobody", "group": "nogroup", "extra_groups": []}
    assert output(batch, ["id", "-un"], **options) == "nobody\n"
    assert output(batch, ["id", "-G"], **options).split() == [
        output(batch, ["id", "-g", "nobody"]).strip()
    ]
    task = batch.process("true", user="no such user")
    task.start()
    with pytest.raises(KeyError):
        task.result.get()


# -------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("args", "options", "error"),
    [
        (["/no/such/program"], {}, FileNotFoundError),
        (["no-such-program-on-the-path"], {}, FileNotFoundError),
        (["/etc/passwd"], {}, PermissionError),
        (["/"], {}, PermissionError),
        (["true"], {"cwd": "/no/such/folder"}, FileNotFoundError),
        (["true"], {"stdin": "/no/such/file"}, FileNotFoundError),
        (["true"], {"stdout": "/no/such/folder/out"}, FileNotFoundError),
        (["true"], {"stderr": "/"}, IsADirectoryError),
        (["true", "a\0b"], {}, ValueError),
    ],
)
def test_what_cannot_be_started(
    batch: Batch, args: list[str], options: dict[str, Any], error: type[Exception]
) -> None:
    task = batch.process(args, **options)
    task.start()
    with pytest.raises(error) as caught:
        task.result.get()
    assert f"Task {task.uid} {os.path.basename(args[0])!r} failed on rank" in str(
        caught.value.__cause__
    )
    if error is FileNotFoundError:
        missing = next(iter(options.values()), args[0])
        assert os.fsdecode(caught.value.filename) == missing
    assert output(batch, ["echo", "on"]) == "on\n"


def test_a_program_of_a_wrong_format(batch: Batch, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF and no more")
    program.chmod(0o755)
    task = batch.process(program)
    task.start()
    with pytest.raises(OSError, match="Exec format error") as caught:
        task.result.get()
    assert caught.value.errno == errno.ENOEXEC


def test_check_makes_a_status_an_error_and_stops_successors(batch: Batch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    lines = "for i in $(seq 1000); do echo line $i >&2; done; exit 3"
    bad = batch.process(sh(lines), check=True, writes=batch.write(file))
    reader = batch.function(file.read_text, reads=batch.read(file))
    batch.compile([bad, reader]).start()
    with pytest.raises(subprocess.CalledProcessError, match="exit status 3") as caught:
        bad.result.get()
    error = caught.value
    assert (error.returncode, error.cmd) == (3, sh(lines))
    assert error.stderr.endswith("line 999\nline 1000\n")
    assert len(error.stderr) <= 2048
    assert len(bad.stderr.get().splitlines()) == 1000
    assert "failed on rank" in str(error.__cause__)
    if sys.version_info >= (3, 11):
        assert "The end of its stderr:\n" in str(error.__cause__)
    with pytest.raises(DependencyError, match=f"task {bad.uid} 'sh' failed"):
        reader.result.get()
    for options in ({"stderr": subprocess.STDOUT}, {"stderr": subprocess.DEVNULL}):
        task = batch.process(sh("echo last >&2; kill -TERM $$"), check=True, **options)
        task.start()
        with pytest.raises(subprocess.CalledProcessError, match="SIGTERM") as caught:
            task.result.get()
        assert caught.value.stderr == ("last\n" if options["stderr"] == subprocess.STDOUT else None)


class Unpicklable:
    def __call__(self) -> None: ...

    def __reduce__(self) -> str:
        raise TypeError("no")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"args": []}, ValueError, "args is empty"),
        ({"args": 7}, TypeError, "sequence of str, not 7"),
        ({"args": ["echo", 7]}, TypeError, r"args\[1\] must be str"),
        ({"stdin": subprocess.PIPE}, ValueError, "path of a file"),
        ({"stdin": subprocess.STDOUT}, ValueError, "for stderr only"),
        ({"stdout": subprocess.STDOUT}, ValueError, "for stderr only"),
        ({"stdout": sys.__stdout__}, TypeError, "cannot cross"),
        ({"stderr": 2}, TypeError, "cannot cross"),
        ({"pass_fds": (3,)}, ValueError, "mean nothing on the worker"),
        ({"process_group": 1234}, ValueError, "group of its own"),
        ({"startupinfo": object()}, ValueError, "for Windows"),
        ({"creationflags": 1}, ValueError, "for Windows"),
        ({"cwd": 5}, TypeError, "cwd must be a path"),
        ({"executable": 5}, TypeError, "executable must be a path"),
        ({"env": {"A": 1}}, TypeError, "str or bytes"),
        ({"preexec_fn": 5}, TypeError, "must be callable"),
        ({"preexec_fn": Unpicklable()}, SerializationError, "cannot be pickled"),
        ({"umask": "027"}, TypeError, "umask must be an integer"),
        ({"bufsize": None}, TypeError, "bufsize must be an integer"),
        ({"encoding": "no such"}, LookupError, "no such"),
        ({"errors": "no such"}, LookupError, "no such"),
        ({"timeout": 0}, ValueError, "more than 0"),
        ({"callback_func": 5}, TypeError, "callback_func"),
    ],
)
def test_what_is_refused_when_the_task_is_made(
    batch: Batch, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        batch.process(**{"args": ["true"], **options})


@pytest.mark.parametrize("wrap", [lambda task: task, lambda task: task.result])
def test_a_task_is_no_argument_of_a_program(
    batch: Batch, wrap: Callable[[Task], Task | AsyncDict]
) -> None:
    with pytest.raises(TypeError, match="cannot be an argument of a program"):
        batch.process(["echo", wrap(batch.function(len, "abc"))])


def test_a_signal_is_told_by_its_number(batch: Batch) -> None:
    task = batch.process([sys.executable, "-c", "import os; os.kill(os.getpid(), 11)"])
    assert task.run() == -signal.SIGSEGV
