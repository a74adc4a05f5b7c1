"""A DAG as a file for other programs: Graphviz (.dot), GraphML (.graphml) and JSON (.json)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard

__all__ = ["WRITERS", "hazard_names"]

#: Characters that XML 1.0 cannot hold.
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
#: Graphviz line styles, next to the colours of the pictures.
_DOT_STYLES = {
    "RAW": 'color="#0072B2"',
    "WAR": 'color="#009E73", style=dashed',
    "WAW": 'color="#D55E00", style=dotted',
    "RAR": 'color="#555555", style=dashed',
}


def hazard_names(flags: int) -> list[str]:
    """Return the names of the flags of an edge, as ``["RAW", "WAW"]``."""
    return [hazard.name for hazard in Hazard if flags & hazard and hazard.name]


def _nodes(
    graph: Graph, names: Sequence[str], states: Sequence[str] | None
) -> Iterator[tuple[int, str, str, str]]:
    """Yield (node, kind, name, state); unknown names and states are empty."""
    for node in range(graph.ntasks):
        yield node, "task", names[node], states[node] if states is not None else ""
    for node in range(graph.ntasks, graph.nnodes):
        yield node, "join", "", ""


def to_json(graph: Graph, names: Sequence[str], states: Sequence[str] | None, title: str) -> bytes:
    """Return the graph as node-link data, as `networkx.node_link_graph` reads them."""
    data = {
        "directed": True,
        "multigraph": False,
        "graph": {"title": title, "ntasks": graph.ntasks},
        "nodes": [
            {"id": node, "kind": kind, "name": name, "state": state or None}
            for node, kind, name, state in _nodes(graph, names, states)
        ],
        "edges": [
            {"source": source, "target": target, "hazards": hazard_names(flags)}
            for source, target, flags in graph.edges()
        ],
    }
    return json.dumps(data, indent=1).encode()


def to_graphml(
    graph: Graph, names: Sequence[str], states: Sequence[str] | None, title: str
) -> bytes:
    """Return the graph as GraphML; hazards are one string, as ``RAW+WAW``."""
    import networkx

    out = networkx.DiGraph(title=_NOT_XML.sub("?", title))
    for node, kind, name, state in _nodes(graph, names, states):
        out.add_node(node, kind=kind, name=_NOT_XML.sub("?", name), state=state)
    for source, target, flags in graph.edges():
        out.add_edge(source, target, hazards="+".join(hazard_names(flags)))
    return "\n".join(networkx.generate_graphml(out)).encode()


def to_dot(graph: Graph, names: Sequence[str], states: Sequence[str] | None, title: str) -> bytes:
    """Return the graph in Graphviz' language; join nodes are points."""
    lines = [
        "digraph tasks {",
        f"  label={_quoted(title)}; labelloc=t; rankdir=TB;",
        "  node [shape=box, style=rounded];",
    ]
    for node, kind, name, state in _nodes(graph, names, states):
        if kind == "join":
            lines.append(f"  n{node} [shape=point];")
        else:
            comment = f", tooltip={_quoted(state)}" if state else ""
            lines.append(f"  n{node} [label={_quoted(name)}{comment}];")
    for source, target, flags in graph.edges():
        found = hazard_names(flags)
        style = next((_DOT_STYLES[name] for name in found if name in _DOT_STYLES), "")
        lines.append(f"  n{source} -> n{target} [label={_quoted('+'.join(found))}, {style}];")
    return ("\n".join([*lines, "}"]) + "\n").encode()


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


#: What makes the content of a file, by the ending of its name.
WRITERS: dict[str, Callable[[Graph, Sequence[str], Sequence[str] | None, str], bytes]] = {
    ".dot": to_dot,
    ".graphml": to_graphml,
    ".json": to_json,
}
