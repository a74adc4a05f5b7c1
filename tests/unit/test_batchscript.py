"""`alamo-mpi slurm`: the script it prints, and the scripts of ``slurm/`` that it has printed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from alamo_mpi.batchscript import JobRequest, batch_script
from alamo_mpi.cli import main

ROOT = Path(__file__).resolve().parents[2]

PRINTED = {
    "cpu.sh": JobRequest(["app.py"]),
    "nodes.sh": JobRequest(["app.py"], nodes=4),
    "gpu.sh": JobRequest(["app.py"], gpus_per_node=4),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_folder_has_what_the_command_prints(name: str) -> None:
    assert (ROOT / "slurm" / name).read_text() == batch_script(PRINTED[name])


@pytest.mark.parametrize("request_", PRINTED.values(), ids=PRINTED)
def test_it_is_a_script_of_bash(request_: JobRequest) -> None:
    done = subprocess.run(["bash", "-n"], input=batch_script(request_), text=True, check=False)
    assert done.returncode == 0


def test_a_job_of_cpus() -> None:
    text = batch_script(JobRequest(["app.py"], nodes=2, tasks=8, cpus_per_task=3, time="2-0"))
    for option in ("--nodes=2", "--ntasks-per-node=8", "--cpus-per-task=3", "--time=2-0"):
        assert f"#SBATCH {option}\n" in text
    assert "15 workers and the manager" in text
    assert text.endswith("\nalamo-mpi run app.py\n")


def test_a_job_of_gpus_has_a_rank_a_gpu_and_the_manager() -> None:
    text = batch_script(JobRequest(["app.py"], nodes=4, gpus_per_node=4))
    assert "#SBATCH --gpus-per-node=4\n" in text
    assert "#SBATCH --ntasks-per-node=5\n" in text
    assert "16 workers with a GPU" in text
    assert "--wrapper launch/gpu.sh app.py" in text


def test_words_arrive_as_they_were_given() -> None:
    text = batch_script(JobRequest(["-m", "pkg.app", "a b", "$HOME"], options=["--partition=x"]))
    assert text.endswith("alamo-mpi run -m pkg.app 'a b' '$HOME'\n")
    assert text.index("#SBATCH --partition=x") < text.index("set -euo")


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        (JobRequest([]), "which program"),
        (JobRequest(["a"], nodes=0), "--nodes=0"),
        (JobRequest(["a"], gpus_per_node=-1), "--gpus-per-node=-1"),
        (JobRequest(["a"], cpus_per_task=0), "--cpus-per-task=0"),
        (JobRequest(["a"], tasks=1), "ask for 2 ranks or more"),
        (JobRequest(["a"], options=["--x\nrm"]), "line break"),
    ],
)
def test_what_makes_no_sense_is_refused(request_: JobRequest, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        batch_script(request_)


def test_the_command_prints_one(capsys: pytest.CaptureFixture[str]) -> None:
    main(["slurm", "--nodes", "4", "--gpus-per-node", "4", "--time", "1:00:00", "app.py", "--x"])
    text = capsys.readouterr().out
    assert text.startswith("#!/usr/bin/env bash\n# 4 nodes, 4 GPUs each")
    assert text.endswith("app.py --x\n")


def test_the_command_says_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        main(["slurm", "--nodes", "0", "app.py"])
    assert leaving.value.code == 2
    assert "--nodes=0: it must be 1 or more" in capsys.readouterr().err
