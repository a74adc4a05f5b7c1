"""Pictures and exports of a DAG: formats, geometry, colours, and what is refused."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import networkx
import numpy as np
import pytest

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.extras.dagfiles import hazard_names
from alamo_mpi.extras.daglayers import assign
from alamo_mpi.extras.daglayout import Layout, Sizes, place
from alamo_mpi.extras.dagplot import ENDINGS, STATES, draw

RAW, WAR, WAW, VALUE = Hazard.RAW, Hazard.WAR, Hazard.WAW, Hazard.VALUE

#: 0 is read by 1 and 2, whose outputs 3 reads; 3 also overwrites what 0 read.
DIAMOND = [(0, 1, RAW), (0, 2, RAW), (1, 3, RAW | VALUE), (2, 3, RAW | WAW), (0, 3, WAR)]
NAMES = ["0 generate", '1 gpu "matmul"', "2 <lambda>", "3 $combine$"]


def diamond() -> Graph:
    return Graph.from_edges(4, DIAMOND)


def random_edges(nnodes: int, nedges: int, seed: int) -> list[tuple[int, int, int]]:
    chance = random.Random(seed)
    pairs = set()
    while len(pairs) < nedges:
        target = chance.randrange(1, nnodes)
        pairs.add((max(0, target - 1 - int(chance.expovariate(1 / 30))), target))
    return [(a, b, chance.choice([1, 1, 2, 4, 5])) for a, b in sorted(pairs)]


# ------------------------------------------------------------------------------- layout


def overlaps(layout: Layout, sizes: Sizes) -> list[tuple[int, int]]:
    """Return pairs of nodes whose boxes overlap."""
    found = []
    by_row = sorted(range(len(layout.x)), key=lambda n: (layout.y[n], layout.x[n]))
    for i, a in enumerate(by_row):
        for b in by_row[i + 1 :]:
            if layout.y[b] - layout.y[a] >= sizes.height - 1e-9:
                break
            if abs(layout.x[a] - layout.x[b]) < (sizes.widths[a] + sizes.widths[b]) / 2 - 1e-6:
                found.append((a, b))
    return found


GRAPHS = {
    "diamond": (4, DIAMOND),
    "chain": (1000, [(i, i + 1, 1) for i in range(999)]),
    "fan": (302, [(0, i, 1) for i in range(1, 301)] + [(i, 301, 1) for i in range(1, 301)]),
    "independent": (500, []),
    "random": (300, random_edges(300, 600, seed=1)),
    "parts": (40, [(i, i + 20, 1) for i in range(0, 20, 2)]),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_boxes_do_not_overlap_and_lie_inside(name):
    nnodes, edges = GRAPHS[name]
    sizes = Sizes([0.5 + 0.1 * (node % 7) for node in range(nnodes)], 0.3)
    layout = place(nnodes, edges, sizes)
    assert not overlaps(layout, sizes)
    assert min(x - w / 2 for x, w in zip(layout.x, sizes.widths, strict=True)) > -1e-6
    for x, y, width in zip(layout.x, layout.y, sizes.widths, strict=True):
        assert x + width / 2 <= layout.width + 1e-6
        assert 0.15 - 1e-9 <= y <= layout.height - 0.15 + 1e-9


@pytest.mark.parametrize("name", [name for name in GRAPHS if name != "chain"])
def test_time_flows_downwards(name):
    nnodes, edges = GRAPHS[name]
    layout = place(nnodes, edges, Sizes([1.0] * nnodes, 0.3))
    assert len(layout.columns) == 1
    assert all(layout.y[source] < layout.y[target] for source, target, _ in edges)


@pytest.mark.parametrize("name", [name for name, (_, edges) in GRAPHS.items() if edges])
def test_every_edge_is_a_path_of_segments_with_its_hazard(name):
    """Cut at the layers and merged into trunks, each edge can still be followed."""
    nnodes, edges = GRAPHS[name]
    order, layer, links = assign(nnodes, edges)
    assert sorted(node for row in order for node in row) == list(range(len(layer)))
    assert all(layer[link.target] > layer[link.source] for link in links)
    below: dict[tuple[int, int], list[int]] = {}
    for link in links:
        below.setdefault((link.source, link.flags), []).append(link.target)
        assert link.arrow == (link.target < nnodes)
    followed = set()
    for source, flags in {(source, int(flags)) for source, _, flags in edges}:
        heap = [source]
        while heap:
            for target in below.get((heap.pop(), flags), []):
                if target < nnodes:
                    followed.add((source, target, flags))
                else:
                    heap.append(target)
    assert followed == {(a, b, int(flags)) for a, b, flags in edges}
    assert sum(link.nlabels for link in links) == len(edges)


def test_a_diamond_is_symmetric_and_has_no_crossing():
    layout = place(4, DIAMOND, Sizes([1.0] * 4, 0.3))
    assert layout.x[0] == pytest.approx(layout.x[3], abs=0.02)
    assert layout.x[0] == pytest.approx((layout.x[1] + layout.x[2]) / 2, abs=0.02)
    assert layout.y[1] == layout.y[2]


def test_a_long_chain_is_wrapped_into_columns_read_left_to_right():
    nnodes, edges = GRAPHS["chain"]
    layout = place(nnodes, edges, Sizes([0.8] * nnodes, 0.3))
    assert len(layout.columns) > 5
    assert 0.7 < layout.width / layout.height < 3
    for a, b, _ in edges:
        assert layout.y[b] > layout.y[a] or layout.x[b] > layout.x[a] + 0.8


def test_the_layout_is_deterministic():
    nnodes, edges = GRAPHS["random"]
    sizes = Sizes([1.0] * nnodes, 0.3)
    assert place(nnodes, edges, sizes) == place(nnodes, edges, sizes)


# ----------------------------------------------------------------------------- pictures


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.rint(imread(path)[:, :, :3] * 255).astype(int)


def has_colour(image: np.ndarray, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(image - wanted).max(axis=2) <= 1).sum() > 20)


def test_a_png_shows_hazards_and_states_in_their_colours(tmp_path):
    states = ["done", "running", "failed", "skipped"]
    draw(diamond(), NAMES, tmp_path / "a.png", states=states)
    image = pixels(tmp_path / "a.png")
    for colour in ("#BFE5D9", "#56B4E9", "#B03A00", "#E69F00", "#0072B2", "#009E73"):
        assert has_colour(image, colour), colour
    draw(diamond(), NAMES, tmp_path / "b.png")
    assert not has_colour(pixels(tmp_path / "b.png"), "#B03A00")


def test_an_svg_holds_names_hazards_and_counts_as_text(tmp_path):
    states = ["done", "done", "failed", "skipped"]
    draw(diamond(), NAMES, tmp_path / "a.svg", states=states, title="main list")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = [
        "".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")
    ]
    assert {"0 generate", '1 gpu "matmul"', "✗ 2 <lambda>", "⊘ 3 $combine$"} <= set(texts)
    assert {"RAW", "WAR", "RAW+WAW", "RAW (result)"} <= set(texts)
    assert {"done: 2", "✗ failed: 1", "⊘ skipped: 1"} <= set(texts)
    assert "main list: 4 tasks, 5 dependencies" in texts


def test_a_pdf_is_one(tmp_path):
    draw(diamond(), NAMES, tmp_path / "a.PDF")
    assert (tmp_path / "a.PDF").read_bytes().startswith(b"%PDF-")


@pytest.mark.parametrize(
    ("ntasks", "edges", "nnodes"),
    [(0, [], 0), (1, [], 1), (3, [(0, 3, 1), (1, 3, 1), (3, 2, 1)], 4)],
    ids=["nothing", "one", "join"],
)
def test_small_graphs_have_a_picture(ntasks, edges, nnodes, tmp_path):
    graph = Graph.from_edges(ntasks, edges, nnodes)
    draw(graph, [f"{i} \u4efb\u52a1" for i in range(ntasks)], tmp_path / "a.png")
    assert pixels(tmp_path / "a.png").size


@pytest.mark.slow
def test_a_thousand_tasks_stay_within_twelve_thousand_pixels(tmp_path):
    graph = Graph.from_edges(1000, random_edges(1000, 1500, seed=2))
    draw(graph, [f"{i} task_{i % 9}" for i in range(1000)], tmp_path / "a.png")
    image = pixels(tmp_path / "a.png")
    assert max(image.shape) <= 12_000
    # Enough of them that a name of nine points is at least eight pixels high.
    assert image.shape[1] > 3_000


@pytest.mark.slow
def test_more_tasks_than_can_be_named_are_drawn_as_dots(tmp_path):
    graph = Graph.from_edges(5000, random_edges(5000, 6000, seed=3))
    draw(graph, ["secret"] * 5000, tmp_path / "a.svg", states=["done"] * 5000)
    text = (tmp_path / "a.svg").read_text()
    assert "secret" not in text
    assert "too many for names" in text


def test_pictures_leave_the_users_matplotlib_alone(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).resolve().parents[2])!r})
import matplotlib
def settings():  # not by [], which looks up a backend through pyplot
    return {{key: dict.__getitem__(matplotlib.rcParams, key) for key in matplotlib.rcParams}}
before = settings()
from alamo_mpi.core.graph import Graph
from alamo_mpi.extras.dagplot import draw
draw(Graph.independent(2), ["a", "b"], {str(tmp_path / "a.png")!r})
assert settings() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_matplotlib_pictures_say_how_to_get_it_and_exports_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'alamo-mpi\[viz\]'"):
        draw(diamond(), NAMES, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    for ending in (".dot", ".graphml", ".json"):
        draw(diamond(), NAMES, tmp_path / f"a{ending}")
        assert (tmp_path / f"a{ending}").stat().st_size


# ------------------------------------------------------------------------------ exports


def joined() -> Graph:
    """Tasks 0 and 1, a join node 3, task 2."""
    return Graph.from_edges(3, [(0, 3, RAW), (1, 3, RAW), (3, 2, RAW), (0, 2, WAR)], 4)


def test_json_is_node_link_data(tmp_path):
    draw(joined(), NAMES[:3], tmp_path / "a.json", states=["done", "done", "running"])
    data = json.loads((tmp_path / "a.json").read_text())
    assert data["nodes"][1] == {"id": 1, "kind": "task", "name": NAMES[1], "state": "done"}
    assert data["nodes"][3] == {"id": 3, "kind": "join", "name": "", "state": None}
    assert {"source": 0, "target": 2, "hazards": ["WAR"]} in data["edges"]
    graph = networkx.node_link_graph(data, edges="edges")
    assert set(graph.edges) == {(0, 3), (1, 3), (3, 2), (0, 2)}


def test_graphml_is_read_back_by_networkx(tmp_path):
    names = ["0 a<b>&", "1 \x00bell\x07", "2 \u4efb\u52a1"]
    draw(joined(), names, tmp_path / "a.graphml", states=["done"] * 3)
    graph = networkx.read_graphml(tmp_path / "a.graphml", node_type=int)
    assert graph.nodes[0] == {"kind": "task", "name": "0 a<b>&", "state": "done"}
    assert graph.nodes[1]["name"] == "1 ?bell?"
    assert graph.nodes[2]["name"] == names[2]
    assert graph.edges[0, 2] == {"hazards": "WAR"}
    assert set(graph.edges) == {(0, 3), (1, 3), (3, 2), (0, 2)}


def test_dot_quotes_names_and_labels_edges(tmp_path):
    draw(diamond(), NAMES, tmp_path / "a.dot", states=["done"] * 4)
    lines = (tmp_path / "a.dot").read_text().splitlines()
    assert lines[0] == "digraph tasks {"
    assert '  n1 [label="1 gpu \\"matmul\\"", tooltip="done"];' in lines
    assert [line.split(" [")[0] for line in lines if "->" in line] == [
        f"  n{source} -> n{target}" for source, target, _ in sorted(DIAMOND)
    ]
    assert any("n2 -> n3" in line and 'label="RAW+WAW"' in line for line in lines)
    draw(joined(), NAMES[:3], tmp_path / "b.dot")
    assert "  n3 [shape=point];" in (tmp_path / "b.dot").read_text().splitlines()


def test_hazard_names_are_in_a_fixed_order():
    assert hazard_names(RAW | WAW | VALUE) == ["RAW", "WAW", "VALUE"]
    assert hazard_names(0) == []


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", ["a.jpeg", "a", "png", "a.png.gz"])
def test_an_unknown_ending_lists_those_that_work(name, tmp_path):
    with pytest.raises(ValueError, match="must end with one of") as caught:
        draw(diamond(), NAMES, tmp_path / name)
    assert all(ending in str(caught.value) for ending in ENDINGS)


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_missing_directory_is_named(ending, tmp_path):
    with pytest.raises(FileNotFoundError, match="directory for the DAG") as caught:
        draw(diamond(), NAMES, tmp_path / "none" / f"a{ending}")
    assert caught.value.filename == str(tmp_path / "none")


def test_names_and_states_must_fit_the_graph(tmp_path):
    with pytest.raises(ValueError, match="3 names for a graph of 4 tasks"):
        draw(diamond(), NAMES[:3], tmp_path / "a.json")
    with pytest.raises(ValueError, match="1 states for a graph of 4 tasks"):
        draw(diamond(), NAMES, tmp_path / "a.json", states=["done"])
    with pytest.raises(ValueError, match=r"unknown states \['lost'\]") as caught:
        draw(diamond(), NAMES, tmp_path / "a.json", states=["done"] * 3 + ["lost"])
    assert all(state in str(caught.value) for state in STATES)


def test_states_are_those_of_the_scheduler():
    from alamo_mpi.core.states import State

    assert tuple(state.name.lower() for state in State) == STATES
