#!/usr/bin/env bash
# Set up alamo_mpi with an MPI of its own, from PyPI, and run the main example on 4 ranks.
# Safe to run again: the second time only the example runs.
#
#   bash launch/quickstart.sh                  PYTHON=/path/to/python3 bash launch/quickstart.sh
set -euo pipefail
# shellcheck source=launch/venv.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/venv.sh"

RANKS=4
VENV=$ROOT/.venv-quickstart

case "${1:-}" in
"") ;;
*) die "usage: [PYTHON=/path/to/python3] bash launch/quickstart.sh" ;;
esac

# shorten: pass on the first lines and the last; the example prints one for each of its tasks.
shorten() {
    awk -v first=3 -v last=5 '
        NR <= first { print; fflush(); next }
        { kept[NR % last] = $0 }
        END {
            if (NR > first + last) print "... (" NR - first - last " lines more)"
            from = NR - last < first ? first : NR - last
            for (i = from + 1; i <= NR; i++) print kept[i % last]
        }'
}

find_python
ensure_venv "$VENV" '.[mpich]'

cd -- "$ROOT"
say "mpiexec -n $RANKS: examples/matrix_powers_files.py"
PATH=$VENV/bin:$PATH "$VENV/bin/python" -m alamo_mpi -n "$RANKS" examples/matrix_powers_files.py \
    </dev/null | shorten

cat <<TEXT
== Done. Next:
   source ${VENV#"$ROOT"/}/bin/activate
   python -m alamo_mpi -n $RANKS examples/hello.py
   docs/guide.md explains the rest.
TEXT
