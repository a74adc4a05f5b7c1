"""Network cards of this host, and what Open MPI is told where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from alamo_mpi.mpi.cards import has_card

SHOW = "import os, alamo_mpi.mpi; print(os.environ.get('OMPI_MCA_btl'))"


def test_a_folder_with_an_entry_is_a_card(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    (full / "mlx5_0").mkdir(parents=True)
    assert not has_card(str(empty))
    assert not has_card(str(tmp_path / "missing"))
    assert has_card(str(full))
    assert has_card(str(tmp_path / "missing"), str(full))


@pytest.mark.parametrize("setting", [None, "tcp,sm,self"])
def test_libfabric_is_not_asked_without_a_card_and_the_users_setting_stays(
    setting: str | None,
) -> None:
    env = {name: value for name, value in os.environ.items() if name != "OMPI_MCA_btl"}
    if setting is not None:
        env["OMPI_MCA_btl"] = setting
    command = [sys.executable, "-c", SHOW]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
    own = None if has_card() else "^ofi"
    assert done.stdout.strip() == str(setting or own)
