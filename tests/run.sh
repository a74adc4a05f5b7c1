#!/usr/bin/env bash
# Install what the tests need and run all of them, on MPICH and on Open MPI.
#
#   bash tests/run.sh                       everything; what CI runs
#   bash tests/run.sh lint unit             only these parts, in the order below
#   MPIS=mpich bash tests/run.sh mpi        on one MPI only
#
# Parts: lint unit mpi launch faults examples quickstart hosts bench.  All of them run even when one
# fails; the exit status is non-zero if any did.  PYTHON=/path/to/python3 picks the interpreter.
set -uo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/../launch/venv.sh"
cd -- "$ROOT" || exit 1

ALL_PARTS=(lint unit mpi launch faults examples quickstart hosts bench)
MPIS=${MPIS:-mpich openmpi}
# Numbers of ranks; MPICH has 3 too, each a node of its own, and both have several hosts.
declare -A SIZES=([mpich]="1 4" [openmpi]="1 3")
LIMIT_S=900 # for one mpiexec or pytest; a hang is a failure, never a wait

# ------------------------------------------------------------------ arguments

wanted=" ${*:-${ALL_PARTS[*]}} "
for part in $wanted; do
    case " ${ALL_PARTS[*]} " in
    *" $part "*) ;;
    *) die "tests/run.sh: no part '$part'; there are: ${ALL_PARTS[*]}" ;;
    esac
done
for mpi in $MPIS; do
    case $mpi in
    mpich | openmpi) ;;
    *) die "tests/run.sh: MPIS='$MPIS'; it takes mpich, openmpi or both." ;;
    esac
done
want() { [[ $wanted == *" $1 "* ]]; }

# ---------------------------------------------------------------- environment

find_python
(
    set -e
    for mpi in $MPIS; do
        case $mpi in
        mpich) ensure_venv "$ROOT/.venv-mpich" '.[test,lint,mpich]' ;;
        openmpi) ensure_venv "$ROOT/.venv-openmpi" '.[test,openmpi]' ;;
        esac
    done
    if want lint || want unit; then
        ensure_venv "$ROOT/.venv-mpich" '.[test,lint,mpich]'
    fi
) || die "tests/run.sh: the environments could not be made; see above."

# What is set here reaches this script's own children only.
unset ALAMO_POOL_BYTES PYTHONPATH
export PYTHONNOUSERSITE=1 PYTHONFAULTHANDLER=1
# Open MPI gives rank 0 a pseudo-terminal, where pytest would colour its lines.
[ -t 1 ] || export PY_COLORS=0
export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
# Open MPI: ranks as root (containers, CI), more ranks than cores, and waiting that yields.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
export OMPI_MCA_mpi_yield_when_idle=1
# It complains where there is no fabric; the package says so itself, but not before a host
# program that has started MPI.
export OMPI_MCA_osc_ucx_verbose=-1

# A time-out ends the step's whole process group; at a terminal the step stays in the
# foreground group instead, so that Ctrl-C reaches it.
group=()
[ ! -t 1 ] || group=(--foreground)

venv_of() { printf '%s' "$ROOT/.venv-$1"; }

# in_venv MPI COMMAND...: as in an activated environment, with a time limit and no input.
in_venv() {
    local venv
    venv=$(venv_of "$1")
    shift
    env VIRTUAL_ENV="$venv" PATH="$venv/bin:$PATH" \
        timeout "${group[@]}" -k 10 "$LIMIT_S" "$@" </dev/null
}

# ----------------------------------------------------------------- bookkeeping

declare -a names=() results=() durations=()
failures=0
# Failed tests of the step, added by tests/conftest.py, and of all steps, shown with the summary.
notes=$(mktemp -d)
export ALAMO_FAILED_TESTS=$notes/step
failed=$notes/all
: >"$ALAMO_FAILED_TESTS"

# step NAME COMMAND...: run it, remember how it went and how long it took.
step() {
    local name=$1 began=$SECONDS rc=0 result=ok
    shift
    say "$name"
    "$@" || rc=$?
    if [ "$rc" != 0 ]; then
        failures=$((failures + 1))
        printf '%s\n' "$name" | cat - "$ALAMO_FAILED_TESTS" >>"$failed"
        : >"$ALAMO_FAILED_TESTS"
        result="FAILED ($rc)"
        [ "$rc" != 124 ] || result="FAILED (over $LIMIT_S s)"
        say "$name: $result"
    fi
    names+=("$name") results+=("$result") durations+=($((SECONDS - began)))
}

skip() {
    say "$1: skipped: $2"
    names+=("$1") results+=("skipped") durations+=(0)
}

summary() {
    local i
    [ ! -s "$failed" ] || printf '\nwhat failed\n%s\n' "$(cat "$failed")"
    printf '\n%-28s %8s  %s\n' part seconds result
    for i in "${!names[@]}"; do
        printf '%-28s %8d  %s\n' "${names[i]}" "${durations[i]}" "${results[i]}"
    done
    printf '%-28s %8d  %s\n' total "$SECONDS" \
        "$([ "$failures" = 0 ] && echo "all passed" || echo "$failures FAILED")"
}

# leftovers snapshot|check: processes of this run and files in /dev/shm; see the program's head.
# It runs without the marker, or it would find itself.
leftovers() {
    env -u ALAMO_RUN_MARKER "$PYTHON" -I tests/support/leftovers.py "$@" </dev/null
}
ALAMO_RUN_MARKER=run-$$-$RANDOM$RANDOM
export ALAMO_RUN_MARKER
before=$(leftovers snapshot)
trap 'leftovers check "$ALAMO_RUN_MARKER" "$before"; exit 130' INT TERM
trap 'rm -rf -- "$notes"' EXIT

# ------------------------------------------------------------------------ parts

# Several hosts: network namespaces on this machine, made by a script outside this tree.
export ALAMO_TESTBED=${ALAMO_TESTBED:-$ROOT/../shared/testbed}
no_hosts="" # why there are none
if [ "$(id -u)" != 0 ]; then
    no_hosts="network namespaces need root"
elif [ ! -x "$ALAMO_TESTBED/netns-cluster" ]; then
    no_hosts="no netns-cluster and slurm-up; name their folder by ALAMO_TESTBED"
fi

# shell_scripts: each one of the project, one a line.
shell_scripts() {
    find . -path './.venv*' -prune -o \( -name '*.sh' -o -path ./.ci/run \) -type f -print | sort
}

lint_shell() {
    local scripts
    local script
    mapfile -t scripts < <(shell_scripts)
    for script in "${scripts[@]}"; do
        bash -n "$script" || return
    done
    in_venv mpich shellcheck -x "${scripts[@]}"
}

pytest_plain() { # MPI FOLDER...
    local mpi=$1
    shift
    in_venv "$mpi" python -m pytest -q "$@"
}

pytest_ranks() { # MPI N
    in_venv "$1" mpiexec -n "$2" python -m alamo_mpi -m pytest -q tests/mpi
}

# Every rank a node of its own, over TCP: shows what shared memory hides.  MPICH only.  The test of
# a value beyond 2 GiB is about counts, not networks, and takes minutes this way.  UCX says on a
# rank's stdout when a spawned process has gone; tests compare what a task has printed.  What is
# not slow the part "hosts" runs on real hosts, where there are any.
pytest_nodes() { # N
    local marks=()
    if want hosts && [ -z "$no_hosts" ]; then marks=(-m slow); fi
    MPIR_CVAR_NOLOCAL=1 UCX_TLS=tcp,self UCX_LOG_LEVEL=fatal in_venv mpich mpiexec -n "$1" \
        python -m alamo_mpi -m pytest -q "${marks[@]}" -k 'not gibibytes' tests/mpi
}

bench_quick() { # MPI
    in_venv "$1" mpiexec -n 3 python -m alamo_mpi benchmarks/tasks.py --quick
}

if want lint; then
    step "lint: ruff check" in_venv mpich ruff check .
    step "lint: ruff format" in_venv mpich ruff format --check .
    step "lint: mypy" in_venv mpich mypy
    step "lint: shell" lint_shell
fi

if want unit; then
    step "unit" pytest_plain mpich tests/unit
fi

for mpi in $MPIS; do
    if want mpi; then
        for n in ${SIZES[$mpi]}; do
            step "mpi: $mpi, $n ranks" pytest_ranks "$mpi" "$n"
        done
        [ "$mpi" != mpich ] || step "mpi: mpich, 3 nodes" pytest_nodes 3
    fi
    if want launch; then
        step "launch: $mpi" pytest_plain "$mpi" tests/launch
    fi
    if want faults; then
        step "faults: $mpi" pytest_plain "$mpi" tests/faults
    fi
    if want examples; then
        step "examples: $mpi" pytest_plain "$mpi" tests/examples
    fi
done

if want quickstart; then
    step "quickstart" env PYTHON="$PYTHON" \
        timeout "${group[@]}" -k 10 "$LIMIT_S" bash launch/quickstart.sh
fi

if want hosts; then
    if [ -n "$no_hosts" ]; then
        skip "hosts" "$no_hosts"
    else
        for mpi in $MPIS; do
            # Apart, so that each keeps within the limit: what is slow is starting on many hosts.
            step "hosts: $mpi" pytest_plain "$mpi" -o faulthandler_timeout=540 \
                tests/hosts/test_hosts.py tests/hosts/test_jobs.py
            step "slurm: $mpi" pytest_plain "$mpi" -o faulthandler_timeout=540 \
                tests/hosts/test_slurm.py tests/hosts/test_scripts.py \
                tests/hosts/test_preemption.py tests/hosts/test_slurm_survival.py \
                tests/hosts/test_slurm_node.py
        done
    fi
fi

if want bench; then
    step "bench: mpich" bench_quick mpich
fi

trap - INT TERM
step "nothing left behind" leftovers check "$ALAMO_RUN_MARKER" "$before"

summary
[ "$failures" = 0 ]
