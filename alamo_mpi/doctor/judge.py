"""What measurements mean: each function takes facts and returns a finding.  Pure.

The thresholds stand at the head; the times behind them were measured on MPICH 5 and Open MPI 5.
"""

from __future__ import annotations

from collections.abc import Sequence

from alamo_mpi.doctor.facts import HostFacts, LibraryFacts, RankFacts, RmaTimes, SpawnOutcome
from alamo_mpi.doctor.report import BROKEN, GOOD, SLOW, Finding
from alamo_mpi.startlog import ENOUGH_TO_PIN

__all__ = ["judge_hang", "judge_launcher", "judge_ranks", "judge_rma", "judge_spawn"]

#: mpi4py that the package was written for.
_LEAST_MPI4PY = (4, 1)
_LEAST_STANDARD = (3, 1)
#: Bytes in /dev/shm for each rank of a host: less makes the memory pool small.
_SHM_PER_RANK = 64 << 20
_CLOCK_S = 1e-2
#: Seconds of an operation: on one host it is a memory access, between hosts a round trip.
_RMA_LIMIT_S = {"one host": 1e-4, "between hosts": 3e-3}
_SPAWN_S = 5.0


def judge_ranks(ranks: Sequence[RankFacts]) -> list[Finding]:
    """Judge libraries, threads, hosts, memory, GPUs and clocks of all ranks, rank 0 first."""
    return [
        _library([rank.library for rank in ranks]),
        _threads([rank.library for rank in ranks]),
        _hosts([rank.host for rank in ranks]),
        _shm([rank.host for rank in ranks]),
        _tmpdir([rank.host for rank in ranks]),
        _memlock([rank.host for rank in ranks]),
        _gpus([rank.host for rank in ranks]),
        _clocks(ranks),
    ]


def _library(libraries: Sequence[LibraryFacts]) -> Finding:
    name, first = "MPI and mpi4py", libraries[0]
    seen = f"{first.version}, MPI {first.standard[0]}.{first.standard[1]}, mpi4py {first.mpi4py}"
    for rank, library in enumerate(libraries):
        if (library.version, library.mpi4py) != (first.version, first.mpi4py):
            return Finding(
                name,
                BROKEN,
                f"Rank 0 has {seen}, but rank {rank} has {library.version}, mpi4py "
                f"{library.mpi4py}: one program cannot mix them.",
                "Use one environment on all hosts, on a file system that all of them see.",
            )
    if _numbers(first.mpi4py) < _LEAST_MPI4PY or first.standard < _LEAST_STANDARD:
        return Finding(
            name,
            BROKEN,
            f"{seen}: mpi4py 4.1 and MPI 3.1 are needed.",
            "pip install --upgrade mpi4py, or load a newer MPI.",
        )
    if not first.family:
        return Finding(
            name, SLOW, f"{seen}: not an MPI that is known here.", "Set MPIEXEC to its launcher."
        )
    return Finding(name, GOOD, f"{seen}, from {first.path or 'an unknown place'}.")


def _threads(libraries: Sequence[LibraryFacts]) -> Finding:
    wrong = [r for r, lib in enumerate(libraries) if lib.thread_level != "MPI_THREAD_MULTIPLE"]
    if wrong:
        return Finding(
            "threads",
            BROKEN,
            f"MPI gives {libraries[wrong[0]].thread_level} on {_ranks(wrong)}; "
            "MPI_THREAD_MULTIPLE is needed.",
            "Unset MPI4PY_RC_THREAD_LEVEL and leave mpi4py.rc.thread_level at 'multiple'; an MPI "
            "built without threads cannot be used.",
        )
    return Finding("threads", GOOD, "MPI_THREAD_MULTIPLE on all ranks.")


def _hosts(hosts: Sequence[HostFacts]) -> Finding:
    by_host = {host.name: sum(h.name == host.name for h in hosts) for host in hosts}
    seen = ", ".join(f"{name} x {count}" for name, count in by_host.items())
    crowded = [
        f"{host.name} ({by_host[host.name]} ranks, {host.cpus} processors)"
        for host in {host.name: host for host in hosts}.values()
        if by_host[host.name] > host.cpus
    ]
    if len(hosts) == 1:
        return Finding(
            "ranks",
            SLOW,
            f"One rank, on {seen}: tasks run inside the program, and nothing between ranks could "
            "be looked at.",
            "Start the doctor as you start your program: mpiexec -n N alamo-mpi doctor",
        )
    if crowded:
        return Finding(
            "ranks",
            SLOW,
            f"{len(hosts)} ranks: {seen}. More ranks than processors on {', '.join(crowded)}: "
            "they take turns.",
            "Start one rank a processor, and one more for the manager.",
        )
    return Finding("ranks", GOOD, f"{len(hosts)} ranks: {seen}.")


def _shm(hosts: Sequence[HostFacts]) -> Finding:
    for host in hosts:
        count = sum(other.name == host.name for other in hosts)
        if host.shm_free < _SHM_PER_RANK * count:
            return Finding(
                "/dev/shm",
                BROKEN if host.shm_free < (2 << 20) * count else SLOW,
                f"{_size(host.shm_free)} of {_size(host.shm_total)} free on {host.name} for "
                f"{count} ranks: the memory pool of DDict will be small or cannot be made.",
                "Remove what is left there, or mount -o remount,size=... /dev/shm; docker "
                "--shm-size.",
            )
    least = min(hosts, key=lambda host: host.shm_free)
    return Finding("/dev/shm", GOOD, f"At least {_size(least.shm_free)} free ({least.name}).")


def _tmpdir(hosts: Sequence[HostFacts]) -> Finding:
    for host in hosts:
        if host.tmpdir_error:
            return Finding(
                "TMPDIR",
                BROKEN,
                f"{host.tmpdir} on {host.name} cannot be written: {host.tmpdir_error}.",
                "Set TMPDIR to a folder that exists on every host and can be written.",
            )
    return Finding("TMPDIR", GOOD, f"{hosts[0].tmpdir} can be written on every host.")


def _memlock(hosts: Sequence[HostFacts]) -> Finding:
    for host in hosts:
        if 0 <= host.memlock < ENOUGH_TO_PIN:
            return Finding(
                "memlock",
                SLOW,
                f"At most {_size(host.memlock)} may be pinned on {host.name}: RDMA hardware, where "
                "there is some, cannot be used well.",
                "ulimit -l unlimited; under Slurm PropagateResourceLimitsExcept=MEMLOCK.",
            )
    return Finding("memlock", GOOD, "No limit that would keep RDMA from pinning memory.")


def _gpus(hosts: Sequence[HostFacts]) -> Finding:
    if not any(host.gpus or host.visible_gpus for host in hosts):
        return Finding("GPUs", GOOD, "None on any host.")
    owners: dict[tuple[str, str], list[int]] = {}
    for rank, host in enumerate(hosts):
        seen = host.visible_gpus
        for gpu in (",".join(host.gpus) if seen is None else seen).split(","):
            if gpu:
                owners.setdefault((host.name, gpu), []).append(rank)
    text = "; ".join(f"{name}: GPU {gpu} {_ranks(who)}" for (name, gpu), who in owners.items())
    workers = {key: [rank for rank in who if rank > 0] for key, who in owners.items()}
    if any(len(who) > 1 for who in workers.values()):
        return Finding(
            "GPUs",
            SLOW,
            f"{text}. Several workers share a GPU.",
            "launch/gpu.sh between launcher and program gives each worker its own.",
        )
    return Finding("GPUs", GOOD, f"{text}." if text else "No rank sees any.")


def _clocks(ranks: Sequence[RankFacts]) -> Finding:
    worst = max(range(len(ranks)), key=lambda rank: abs(ranks[rank].clock_offset_s))
    offset = ranks[worst].clock_offset_s
    if abs(offset) > _CLOCK_S:
        return Finding(
            "clocks",
            SLOW,
            f"The clock of rank {worst} ({ranks[worst].host.name}) is {offset * 1e3:+.0f} ms off "
            "rank 0's: files made there look newer or older than they are.",
            "Run chrony or ntpd on every host.",
        )
    return Finding("clocks", GOOD, f"All within {abs(offset) * 1e3:.2f} ms of rank 0's.")


def judge_launcher(announced: tuple[str, int] | None, size: int, command: str) -> Finding:
    """Judge who started these ranks; `command` is what would, or why nothing would."""
    if announced is None:
        return Finding("launcher", GOOD, f"None has started this process. Here it is: {command}")
    name, nranks = announced
    if nranks > 1 and size == 1:
        return Finding(
            "launcher",
            BROKEN,
            f"{nranks} separate programs of one rank were started ({name}={nranks}): the launcher "
            "belongs to another MPI.",
            f"Use: {command}",
        )
    return Finding("launcher", GOOD, f"It announced {nranks} ranks ({name}), and {size} met.")


def judge_rma(times: RmaTimes) -> Finding:
    """Judge one-sided operations between two ranks."""
    name = f"RMA, {times.where}, target {times.target}"
    seen = (
        f"get {_time(times.get)}, put {_time(times.put)}, fetch-and-add {_time(times.add)}, "
        f"compare-and-swap {_time(times.swap)}"
    )
    if not times.correct:
        return Finding(
            name,
            BROKEN,
            f"{seen}, but the words read were not those written: DDict cannot be trusted here.",
            "MPICH with libfabric over tcp: MPIR_CVAR_CH4_OFI_ENABLE_INJECT=0, or the ucx netmod "
            "(launch/fabric.sh tcp).",
        )
    slowest = max(times.get, times.put, times.add, times.swap)
    if slowest <= _RMA_LIMIT_S[times.where]:
        return Finding(name, GOOD, f"{seen}.")
    if times.where == "one host":
        remedy = "launch/fabric.sh with the fabric of this cluster; fewer ranks than processors."
    else:
        remedy = (
            "launch/fabric.sh with the fabric of this cluster; fewer ranks than processors; keep "
            "dictionaries near their users (DDict(near=...))."
        )
    return Finding(name, SLOW, f"{seen}.", remedy)


def judge_spawn(outcome: SpawnOutcome) -> Finding:
    """Judge ``Comm.Spawn``, which was tried in a program of its own."""
    if outcome.ok and outcome.seconds <= _SPAWN_S:
        return Finding("spawn", GOOD, f"Comm.Spawn works, {outcome.seconds:.1f} s.")
    if outcome.ok:
        return Finding("spawn", SLOW, f"Comm.Spawn works, but took {outcome.seconds:.1f} s.")
    return Finding(
        "spawn",
        SLOW,
        f"Comm.Spawn does not work here ({outcome.said}); only MPI jobs started inside a task "
        "would use it, and they have other ways.",
        "Nothing, unless your own program spawns; MPICH can.",
    )


def judge_hang(probe: str, limit_s: float) -> Finding:
    """Say that a probe did not come back."""
    return Finding(
        probe,
        BROKEN,
        f"It did not end within {limit_s:g} s and was given up, with all that should have come "
        "after it.",
        "Look at the network between the hosts: name resolution, firewalls, the interface that "
        "MPI takes (UCX_NET_DEVICES, OMPI_MCA_btl_tcp_if_include), launch/fabric.sh tcp.",
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())


def _ranks(ranks: Sequence[int]) -> str:
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"


def _size(nbytes: int) -> str:
    return f"{nbytes / (1 << 30):.1f} GiB" if nbytes >= 1 << 30 else f"{nbytes / (1 << 20):.0f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.1f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} us"
