"""PMI-1, the server's half: lines in, lines out."""

from __future__ import annotations

import pytest

from alamo_mpi.core.pmi import Server, process_mapping, shared_memory


def test_a_process_says_hello_asks_and_leaves() -> None:
    server = Server(["a"], "space")
    for line, answer in [
        ("cmd=init pmi_version=1 pmi_subversion=1", "cmd=response_to_init pmi_version=1 "),
        ("cmd=get_maxes", "cmd=maxes rc=0 kvsname_max=256 keylen_max=64 vallen_max=1024"),
        ("cmd=get_appnum", "cmd=appnum rc=0 appnum=0"),
        ("cmd=get_my_kvsname", "cmd=my_kvsname rc=0 kvsname=space"),
        ("cmd=get_universe_size", "cmd=universe_size rc=0 size=1"),
        ("cmd=publish_name service=x port=y", "cmd=publish_name_result rc=-1 "),
        ("cmd=barrier_in", "cmd=barrier_out rc=0"),
        ("cmd=finalize", "cmd=finalize_ack rc=0"),
    ]:
        [(rank, said)] = server.handle(0, line)
        assert rank == 0
        assert said.startswith(answer)
    assert (server.initialized, server.finalized, server.aborted) == ({0}, {0}, None)


def test_what_one_puts_the_others_get_blanks_and_all() -> None:
    server = Server(["a", "b"], "space")
    server.handle(0, "cmd=put kvsname=space key=card value=one two=three  four")
    [(_, said)] = server.handle(1, "cmd=get kvsname=space key=card")
    assert said == "cmd=get_result rc=0 msg=success value=one two=three  four"
    [(_, said)] = server.handle(1, "cmd=get kvsname=space key=other")
    assert said.startswith("cmd=get_result rc=-1")


def test_a_barrier_opens_when_all_are_in_and_closes_again() -> None:
    server = Server(["a"] * 3, "space")
    for _ in range(2):
        assert server.handle(2, "cmd=barrier_in") == []
        assert server.handle(0, "cmd=barrier_in") == []
        out = server.handle(1, "cmd=barrier_in")
        assert out == [(rank, "cmd=barrier_out rc=0") for rank in range(3)]


def test_the_first_abort_is_the_one_that_counts() -> None:
    server = Server(["a"] * 3, "space")
    assert server.handle(2, "cmd=abort exitcode=9") == []
    assert server.handle(1, "cmd=abort exitcode=3") == []
    assert server.aborted == (2, 9)


def test_a_spawn_of_several_lines_is_refused_once() -> None:
    server = Server(["a"], "space")
    for line in ("mcmd=spawn", "nprocs=1", "execname=x", "preput_num=0"):
        assert server.handle(0, line) == []
    [(_, said)] = server.handle(0, "endcmd")
    assert said.startswith("cmd=spawn_result rc=-1")
    [(_, said)] = server.handle(0, "cmd=get_appnum")
    assert said == "cmd=appnum rc=0 appnum=0"


@pytest.mark.parametrize(
    ("hosts", "mapping"),
    [
        ("aa", "(vector,(0,1,2))"),
        ("abc", "(vector,(0,3,1))"),
        ("aabbcc", "(vector,(0,3,2))"),
        ("aab", "(vector,(0,1,2),(1,1,1))"),
        ("aba", "(vector,(0,2,1),(0,1,1))"),
    ],
)
def test_who_shares_a_host(hosts: str, mapping: str) -> None:
    assert process_mapping(list(hosts)) == mapping


def test_a_mapping_that_is_too_long_is_left_out() -> None:
    assert process_mapping([host for i in range(400) for host in ["a", "b"][: 1 + i % 2]]) == ""
    server = Server(["ab"[i * i % 7 % 2] for i in range(2000)], "space")
    [(_, said)] = server.handle(0, "cmd=get kvsname=space key=PMI_process_mapping")
    assert said.startswith("cmd=get_result rc=-1")


def test_the_names_of_shared_memory_hold_the_hash_of_the_space() -> None:
    """As seen under MPICH 5.0.2."""
    assert shared_memory("kvs_job") == ("mpich_shm_e3b70441_", "mpich_vci_e3b70441_")
