"""Which file a path means, on a real directory tree."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from alamo_mpi.core.access import CommunicationDomain, CommunicationObject, read, write
from alamo_mpi.inference import infer
from alamo_mpi.runtime import paths
from alamo_mpi.runtime.paths import FileTable


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """::

    data/           real directory; the working directory is its parent
      a             file
      to_a          -> a
      to_missing    -> not/there
      sub/b         file
      to_sub        -> sub
    alias           -> data
    """
    root = tmp_path.resolve()
    (root / "data" / "sub").mkdir(parents=True)
    (root / "data" / "a").write_text("a")
    (root / "data" / "sub" / "b").write_text("b")
    (root / "data" / "to_a").symlink_to("a")
    (root / "data" / "to_missing").symlink_to("not/there")
    (root / "data" / "to_sub").symlink_to("sub")
    (root / "alias").symlink_to("data")
    monkeypatch.chdir(root)
    return root


def table() -> FileTable:
    return FileTable(itertools.count().__next__)


SPELLINGS = [
    "data/a",
    "{root}/data/a",
    "./data/./a",
    "data/../data/a",
    "data/sub/../a",
    "data/a/",
    "alias/a",
    "alias/to_a",
    "data/to_a",
    "data//a",
    "../{name}/data/a",
    "data/to_sub/../a",
]


@pytest.mark.parametrize("one", SPELLINGS)
def test_spellings_of_one_file(tree, one):
    files = table()
    expected = files.resource(str(tree / "data" / "a"))
    assert files.resource(one.format(root=tree, name=tree.name)) == expected


@pytest.mark.parametrize(
    ("directory", "channel"),
    [
        ("data", "a"),
        ("data", "to_a"),
        ("alias", "./a"),
        ("data/", "sub/../a"),
        ("data/sub", "../a"),
        ("data/to_sub", "../a"),
        ("data/sub", "{root}/data/a"),
        (".", "data/a"),
        ("", "data/a"),
        ("/", "{root}/alias/a"),
    ],
)
def test_channels_are_relative_to_the_directory(tree, directory, channel):
    files = table()
    expected = files.resource(str(tree / "data" / "a"))
    assert files.directory(directory)[channel.format(root=tree)] == expected


def test_the_directory_itself_has_many_spellings(tree):
    files = table()
    spellings = ["data", "data/", "data/.", "alias", "data/sub/..", str(tree / "data")]
    channels = [files.directory("data")[name] for name in ("", ".", "sub/..", "../alias")]
    assert len({*map(files.resource, spellings), *channels}) == 1


def test_different_files_differ(tree):
    files = table()
    names = ["data", "data/a", "data/b", "data/sub/b", "data/sub", "data/sub/a", "a", ".", "/"]
    assert len({files.resource(name) for name in names}) == len(names)


def test_link_to_what_is_not_there_yet(tree):
    files = table()
    assert files.resource("data/to_missing") == files.resource("data/not/there")


def test_missing_directories(tree):
    files = table()
    assert files.resource("new/x/../y") == files.directory("new")["y"]


def test_a_loop_of_links_is_a_name_like_another(tree):
    (tree / "loop").symlink_to("loop")
    files = table()
    assert files.resource("loop") == files.resource("loop")


def test_one_listing_and_one_resolution_for_a_directory(tree, monkeypatch):
    """A thousand files must not cost a thousand requests to the file system."""
    asked = []
    real_scandir, real_realpath = os.scandir, os.path.realpath

    def counted(name, function):
        def call(path, *args, **kwargs):
            asked.append(name)
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(paths.os, "scandir", counted("scandir", real_scandir))
    monkeypatch.setattr(paths.os.path, "realpath", counted("realpath", real_realpath))
    files = table()
    for i in range(1000):
        files.resource(f"data/file_{i}")
        files.directory("data")[f"file_{i}"]
    assert sorted(asked) == ["realpath", "scandir"]


def test_unlistable_directory_and_file_as_directory(tree):
    files = table()
    assert files.resource("data/a/x") == files.directory("data/a")["x"]


def test_nearest_accessed_directory_covers(tree):
    files = table()
    b, d = files.resource("alias/sub/b"), files.resource("data")
    assert dict(files.coverings()) == {b: d}
    sub = files.resource("data/to_sub")
    assert dict(files.coverings()) == {b: sub, sub: d}
    root = files.resource("/")
    assert dict(files.coverings()) == {b: sub, sub: d, d: root}


def test_nothing_is_covered_in_the_usual_program(tree):
    files = table()
    for i in range(10):
        files.directory("data")[f"file_{i}"]
    assert list(files.coverings()) == []


def test_inference_through_links_and_spellings(tree):
    """w0(a) -> r1(alias/to_a) -> w2(directory) -> r3(sub/b through a link)."""
    accesses = [
        [write(Path("data"), "a")],
        [read(Path("alias"), "to_a")],
        [write(tree / "alias")],
        [read(Path("data/to_sub/b"))],
    ]
    graph = infer(accesses)
    graph.check()
    pairs = {(source, target) for source, target, _ in graph.edges()}
    assert {(0, 1), (1, 2), (2, 3)} <= pairs


def test_a_path_is_never_a_communication_object(tree):
    accesses = [[write(CommunicationObject(CommunicationDomain(), "data"))], [write(Path("data"))]]
    assert infer(accesses).nedges == 0
