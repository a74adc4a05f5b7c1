"""Write a batch script for Slurm: ``alamo-mpi slurm``, and most scripts of the folder ``slurm/``.

Pure: a request in, the text out.  What Slurm decides at run time (how many tasks, which hosts)
stays out of the text, so that a script can be submitted with other sizes.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["JobRequest", "batch_script"]

#: One rank a GPU, and the manager as one rank more on the first host.
_ONE_RANK_A_GPU = """\
# One rank a GPU on each host, and one more, the manager, on the first.
hosts=$(mktemp)
trap 'rm -f "$hosts"' EXIT
scontrol show hostnames | awk -v gpus="$SLURM_GPUS_ON_NODE" \\
    'NR == 1 { print } { for (i = 0; i < gpus; i++) print }' >"$hosts"
export SLURM_HOSTFILE=$hosts SLURM_DISTRIBUTION=arbitrary
"""


class JobRequest(NamedTuple):
    """What a job asks for.

    Attributes
    ----------
    program : sequence of str
        File and arguments, or ``-m``, module and arguments.
    nodes : int
        Number of hosts.
    tasks : int
        Ranks on each host, the manager included; of no effect with `gpus_per_node`.
    gpus_per_node : int
        With some, there is one rank a GPU, and the manager.
    cpus_per_task : int
        Processors for each rank.
    time : str
        Limit, as Slurm writes it.
    environment : str
        Folder of the virtual environment with the package.
    wrapper : str
        Path of ``launch/gpu.sh``; needed with GPUs.
    options : sequence of str
        Further options of ``sbatch``, such as ``--partition=long``.
    """

    program: Sequence[str]
    nodes: int = 1
    tasks: int = 4
    gpus_per_node: int = 0
    cpus_per_task: int = 1
    time: str = "1:00:00"
    environment: str = ".venv"
    wrapper: str = "launch/gpu.sh"
    options: Sequence[str] = ()


def batch_script(request: JobRequest) -> str:
    """Return the text of a batch script.

    Raises
    ------
    ValueError
        When a number is out of range or the program is missing; says which.
    """
    _check(request)
    parts = [
        "#!/usr/bin/env bash\n",
        f"# {_summary(request)}\n",
        "# Edit: these options, the folder of the environment, the program.\n",
        *(f"#SBATCH {option}\n" for option in _options(request)),
        "set -euo pipefail\n\n",
        "# shellcheck source=/dev/null\n",
        f"source {shlex.quote(request.environment + '/bin/activate')}\n",
    ]
    command = ["alamo-mpi", "run"]
    if request.gpus_per_node:
        parts += ["\n", _ONE_RANK_A_GPU]
        command += ["--wrapper", request.wrapper]
    # The batch shell has no more to do than to wait, but its traps have.
    words = shlex.join([*command, *request.program])
    if request.gpus_per_node:
        words = words.replace("run ", 'run -n "$(wc -l <"$hosts")" ', 1)
    return "".join([*parts, words, "\n"])


def _options(request: JobRequest) -> list[str]:
    ranks = request.gpus_per_node + 1 if request.gpus_per_node else request.tasks
    options = [
        f"--nodes={request.nodes}",
        f"--ntasks-per-node={ranks}",
        f"--cpus-per-task={request.cpus_per_task}",
        f"--time={request.time}",
    ]
    if request.gpus_per_node:
        options.insert(2, f"--gpus-per-node={request.gpus_per_node}")
    return [*options, "--output=%x-%j.out", *request.options]


def _summary(request: JobRequest) -> str:
    where = "one node" if request.nodes == 1 else f"{request.nodes} nodes"
    if request.gpus_per_node:
        workers = request.nodes * request.gpus_per_node
        each = f"{request.gpus_per_node} GPU{'s' * (request.gpus_per_node > 1)} each"
        return f"{where.capitalize()}, {each}: {workers} workers with a GPU, and the manager."
    workers = request.nodes * request.tasks - 1
    return f"{where.capitalize()}, {request.tasks} ranks each: {workers} workers and the manager."


def _check(request: JobRequest) -> None:
    if not request.program:
        raise ValueError("which program? Name a file, or -m and a module.")
    for name, value, least in (
        ("--nodes", request.nodes, 1),
        ("--ntasks-per-node", request.tasks, 1),
        ("--gpus-per-node", request.gpus_per_node, 0),
        ("--cpus-per-task", request.cpus_per_task, 1),
    ):
        if value < least:
            raise ValueError(f"{name}={value}: it must be {least} or more.")
    if request.nodes * request.tasks < 2 and not request.gpus_per_node:
        raise ValueError("one rank is the manager and has no workers: ask for 2 ranks or more.")
    if "\n" in "".join([*request.options, request.time, request.environment]):
        raise ValueError("an option cannot have a line break in it.")
