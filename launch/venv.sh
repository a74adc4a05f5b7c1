# shellcheck shell=bash
# Sourced by launch/quickstart.sh and tests/run.sh: find a Python, make and reuse virtual
# environments.  The package itself is installed in editable form, so only pyproject.toml, the
# interpreter and the requirements decide whether an environment is still right.

say() { printf '%s\n' "== $*"; }

die() {
    printf '%s\n' "$@" >&2
    exit 1
}

# The project's root: the folder above this file's.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)

readonly VERSION_TEST='import sys; raise SystemExit(sys.version_info < (3, 10))'
readonly VERSION_TEXT='import sys; print("%d.%d.%d" % sys.version_info[:3])'

# find_python: set PYTHON to an interpreter >= 3.10, the caller's own choice first.
find_python() {
    local candidate seen=""
    if [ -n "${PYTHON:-}" ]; then
        command -v -- "$PYTHON" >/dev/null 2>&1 ||
            die "PYTHON=$PYTHON is not a program that can be run; name a Python 3.10 or newer."
        "$PYTHON" -c "$VERSION_TEST" 2>/dev/null ||
            die "PYTHON=$PYTHON is Python $("$PYTHON" -c "$VERSION_TEXT" 2>&1 | tail -n 1);" \
                "alamo_mpi needs 3.10 or newer."
    else
        for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
            command -v "$candidate" >/dev/null 2>&1 || continue
            if "$candidate" -c "$VERSION_TEST" 2>/dev/null; then
                PYTHON=$candidate
                break
            fi
            seen+=" $candidate ($("$candidate" -c "$VERSION_TEXT" 2>&1 | tail -n 1))"
        done
        [ -n "${PYTHON:-}" ] ||
            die "alamo_mpi needs Python 3.10 or newer and found:${seen:- none}." \
                "Install one (Debian: apt-get install python3) or name it: PYTHON=/path/to/python3 bash $0"
    fi
    # The real path: with a shim on PATH the environment would depend on the current folder.
    PYTHON=$("$PYTHON" -c 'import sys; print(sys.executable)')
}

# create_venv DIR: an empty virtual environment with pip, by the means that this machine has.
create_venv() {
    local dir=$1 package borrowed
    if "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
        "$PYTHON" -m venv --clear "$dir"
        return
    fi
    # Debian ships Python without ensurepip; its package is named after the version.
    package=$("$PYTHON" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "this Python has no venv module: installing Debian's $package"
        if apt-get update -qq </dev/null && DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends "$package" </dev/null >/dev/null &&
            "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null; then
            "$PYTHON" -m venv --clear "$dir"
            return
        fi
    fi
    if "$PYTHON" -c 'import pip' 2>/dev/null; then
        say "this Python has no venv module: borrowing virtualenv"
        borrowed=$(mktemp -d)
        if "$PYTHON" -m pip install -q --target "$borrowed" virtualenv </dev/null &&
            PYTHONPATH=$borrowed "$PYTHON" -m virtualenv -q --clear "$dir"; then
            rm -rf -- "$borrowed"
            return
        fi
        rm -rf -- "$borrowed"
    fi
    die "$PYTHON cannot make virtual environments. As root: apt-get install $package" \
        "Then run this command again."
}

# ensure_venv DIR REQUIREMENT...: DIR has the package and the requirements installed; returns
# at once when it was made from the same inputs.  '.[extra]' among the requirements means this
# project.
ensure_venv() {
    local dir=$1 stamp
    shift
    stamp=$({
        cat -- "$ROOT/pyproject.toml"
        "$PYTHON" -c 'import sys; print(sys.executable, sys.version)'
        printf '%s\n' "$dir" "$@"
    } | sha256sum | cut -d ' ' -f 1)
    # The root folder itself is the lock: two runs at once do not build over each other.
    exec 9<"$ROOT"
    flock 9
    if [ "$(cat -- "$dir/.stamp" 2>/dev/null)" != "$stamp" ]; then
        say "making ${dir#"$ROOT"/} with $PYTHON (once; a minute or two)"
        create_venv "$dir" 9<&-
        # A recent pip first: old ones read newer projects' metadata wrongly.
        (
            cd -- "$ROOT" || exit
            "$dir/bin/python" -m pip install --upgrade pip &&
                "$dir/bin/python" -m pip install -e "$@"
        ) </dev/null >"$dir/install.log" 2>&1 9<&- || {
            tail -n 40 -- "$dir/install.log" >&2
            die "${dir#"$ROOT"/}: pip could not install $*; all of its output: $dir/install.log"
        }
        printf '%s\n' "$stamp" >"$dir/.stamp"
    fi
    exec 9<&-
}
