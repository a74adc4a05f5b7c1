"""The picture of a task graph, drawn by matplotlib on its own canvas (never through pyplot).

Colours are those of M. Okabe and K. Ito, told apart with every kind of colour vision; hazards
differ in line style too, and the states that need attention carry a sign.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any

from alamo_mpi.core.graph import Graph
from alamo_mpi.core.hazards import Hazard
from alamo_mpi.extras.dagfiles import hazard_names
from alamo_mpi.extras.daglayout import Segment, Sizes, place

__all__ = ["picture"]

_MAX_PIXELS = 12_000
#: Above this many nodes there are no names, and above this many segments no hazard labels.
_MAX_NAMED = 4_000
_MAX_LABELS = 2_500
_FONT = "DejaVu Sans"
_FONT_SIZE = 9.0
_LINE_LENGTH = 20
_DOT = 0.09

#: state: (fill, text colour, sign before the name)
_STATES = {
    "waiting": ("#FFFFFF", "black", ""),
    "ready": ("#F0E442", "black", ""),
    "running": ("#56B4E9", "black", "\u25b6 "),
    "done": ("#BFE5D9", "black", ""),
    "failed": ("#B03A00", "white", "\u2717 "),
    "skipped": ("#E69F00", "black", "\u2298 "),
    "cancelled": ("#BBBBBB", "black", "\u2013 "),
}
_NO_STATE = ("#EAF1F8", "black", "")
#: hazard: (colour, dashes); the first that an edge has decides.
_HAZARDS: dict[int, tuple[str, Any]] = {
    int(Hazard.RAW): ("#0072B2", "-"),
    int(Hazard.WAW): ("#D55E00", (0, (1.2, 1.6))),
    int(Hazard.WAR): ("#009E73", (0, (5, 2.5))),
    int(Hazard.RAR): ("#555555", (0, (6, 2, 1, 2))),
}
_MEANINGS = {
    int(Hazard.RAW): "RAW: reads what the other wrote",
    int(Hazard.WAW): "WAW: writes it again",
    int(Hazard.WAR): "WAR: overwrites what the other read",
    int(Hazard.RAR): "RAR: both read, in order",
}


def picture(
    graph: Graph, names: Sequence[str], states: Sequence[str] | None, heading: str, kind: str
) -> bytes:
    """Return the picture of a graph as the bytes of a file.

    Parameters
    ----------
    graph, names, states
        As for `draw`.
    heading : str
        Text on top.
    kind : {"png", "svg", "pdf"}
        The format.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
    except ImportError as error:
        raise ImportError(
            "pictures of a DAG need matplotlib: pip install 'alamo-mpi[viz]' "
            "(or write it as .dot, .graphml or .json)"
        ) from error

    # The user's settings for their own plots must not reach this one, nor this one theirs.
    file = io.BytesIO()
    with (
        matplotlib.rc_context({"text.usetex": False, "svg.fonttype": "none"}),
        warnings.catch_warnings(),
    ):
        # A name in a script that the font lacks is shown as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure, dpi = _Picture(graph, names, states, heading).figure()
        FigureCanvasAgg(figure)
        figure.savefig(file, format=kind, dpi=dpi)
    return file.getvalue()


class _Picture:
    """One drawing: coordinates are inches, y downwards, below a header of fixed height."""

    def __init__(
        self, graph: Graph, names: Sequence[str], states: Sequence[str] | None, heading: str
    ) -> None:
        self.graph = graph
        self.states = states
        self.heading = heading
        self.named = graph.ntasks <= _MAX_NAMED
        self.labels = [self._label(node, name) for node, name in enumerate(names)]
        edges = [(source, target, int(flags)) for source, target, flags in graph.edges()]
        self.flags = sorted({flags for _, _, flags in edges})
        self.sizes = self._sizes()
        self.layout = place(graph.nnodes, edges, self.sizes)
        self.nlabels = sum(segment.nlabels for segment in self.layout.segments)

    def figure(self) -> tuple[Any, float]:
        """Return the finished figure and its resolution in dots per inch."""
        from matplotlib.figure import Figure

        layout, margin = self.layout, 0.3
        body_width = layout.width + 2 * margin
        scale = min(5.0, max(1.0, body_width / 12))
        width = max(7.0, body_width)
        header = scale * (0.3 + 0.19 * self._legend_rows(width / scale))
        height = header + layout.height + 2 * margin
        figure = Figure(figsize=(width, height), facecolor="white")
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        axes.set_axis_off()
        left = (width - layout.width) / 2
        axes.set_xlim(-left, width - left)
        axes.set_ylim(layout.height + margin, -margin - header)
        self._columns(axes)
        self._edges(axes)
        self._nodes(axes)
        self._header(axes, width, scale, (-left, -margin - header))
        return figure, min(
            150.0 if width < 20 else 110.0 if width < 50 else 90.0,
            (_MAX_PIXELS - 8) / max(width, height),
        )

    def _label(self, node: int, name: str) -> str:
        """Put a long name on two lines, and shorten what is longer still."""
        if len(name) > _LINE_LENGTH:
            first, _, rest = name.partition(" ")
            if not rest or len(first) > _LINE_LENGTH:
                first, rest = name[:_LINE_LENGTH], name[_LINE_LENGTH:]
            if len(rest) > _LINE_LENGTH + 4:
                rest = f"{rest[: _LINE_LENGTH // 2]}\u2026{rest[-_LINE_LENGTH // 2 - 3 :]}"
            name = f"{first}\n{rest}"
        return self._style(node)[2] + name

    def _style(self, node: int) -> tuple[str, str, str]:
        return _NO_STATE if self.states is None else _STATES[self.states[node]]

    def _sizes(self) -> Sizes:
        ntasks = self.graph.ntasks
        dots = [_DOT] * (self.graph.nnodes - ntasks)
        if not self.named:
            return Sizes([_DOT] * ntasks + dots, _DOT, 0.06, 0.2)
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextToPath

        measure, font = TextToPath(), FontProperties(family=_FONT, size=_FONT_SIZE)
        # Measured line by line as plain text: a "$" in a name is not mathematics.
        widths = [
            max(
                measure.get_text_width_height_descent(line, font, False)[0]
                for line in label.split("\n")
            )
            / 72
            + 0.2
            for label in self.labels
        ]
        two_lines = any("\n" in label for label in self.labels)
        return Sizes(widths + dots, 0.42 if two_lines else 0.27)

    def _columns(self, axes: Any) -> None:
        """Shade the columns of a wrapped graph, so that they are seen as such."""
        from matplotlib.patches import Rectangle

        if len(self.layout.columns) < 2:
            return
        for left, right in self.layout.columns:
            axes.add_patch(
                Rectangle(
                    (left - 0.12, -0.1),
                    right - left + 0.24,
                    self.layout.height + 0.2,
                    facecolor="#F3F3F3",
                    edgecolor="none",
                    zorder=0,
                )
            )

    def _edges(self, axes: Any) -> None:
        from matplotlib.collections import PathCollection, PolyCollection

        for flags in self.flags:
            segments = [s for s in self.layout.segments if s.flags == flags]
            colour, dashes = _line(flags)
            axes.add_collection(
                PathCollection(
                    [_path(segment.points) for segment in segments],
                    facecolors="none",
                    edgecolors=colour,
                    linestyles=[dashes],
                    linewidths=1.1 if self.named else 0.4,
                    zorder=1,
                )
            )
            if self.named:
                heads = [_arrow_head(s.points) for s in segments if s.arrow]
                axes.add_collection(
                    PolyCollection(heads, facecolors=colour, edgecolors="none", zorder=2)
                )
        if self.named and self.nlabels <= _MAX_LABELS:
            for segment in self.layout.segments:
                if segment.nlabels:
                    self._hazard_label(axes, segment)

    def _hazard_label(self, axes: Any, segment: Segment) -> None:
        (x0, y0), (x1, y1) = segment.points[0], segment.points[-1]
        x, y = ((x0 + x1) / 2, (y0 + y1) / 2)
        if len(segment.points) > 2:
            x, y = segment.points[2][0], (segment.points[2][1] + segment.points[3][1]) / 2
        axes.text(
            x,
            y,
            _hazard_text(segment.flags),
            fontsize=6,
            fontfamily=_FONT,
            color=_line(segment.flags)[0],
            ha="center",
            va="center",
            zorder=3,
            bbox={"boxstyle": "square,pad=0.08", "facecolor": "white", "edgecolor": "none"},
        )

    def _nodes(self, axes: Any) -> None:
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Circle, FancyBboxPatch

        layout, ntasks = self.layout, self.graph.ntasks
        positions = list(zip(layout.x, layout.y, strict=True))
        dots = [Circle(centre, _DOT / 2) for centre in positions[ntasks:]]
        axes.add_collection(PatchCollection(dots, facecolors="#333333", zorder=4))
        height = self.sizes.height
        shapes: list[Any] = [
            FancyBboxPatch(
                (x - width / 2, y - height / 2),
                width,
                height,
                boxstyle=f"round,pad=0,rounding_size={height / 4}",
            )
            for (x, y), width in zip(positions[:ntasks], self.sizes.widths, strict=False)
        ]
        fills = [self._style(node)[0] for node in range(ntasks)]
        line_width = 0.8 if self.named else 0.2
        axes.add_collection(
            PatchCollection(
                shapes, facecolors=fills, edgecolors="#333333", linewidths=line_width, zorder=4
            )
        )
        if not self.named:
            return
        for node, ((x, y), label) in enumerate(zip(positions, self.labels, strict=False)):
            axes.text(
                x,
                y,
                label,
                fontsize=_FONT_SIZE,
                fontfamily=_FONT,
                color=self._style(node)[1],
                ha="center",
                va="center_baseline",
                parse_math=False,
                linespacing=1.05,
                zorder=5,
            )

    def _legend_entries(self, scale: float = 1.0) -> list[tuple[str, Any]]:
        """Return (text, handle) for what the picture contains, hazards before states."""
        from matplotlib.lines import Line2D
        from matplotlib.patches import Patch

        entries: list[tuple[str, Any]] = []
        for hazard, (colour, dashes) in _HAZARDS.items():
            if any(flags & hazard for flags in self.flags):
                handle = Line2D([], [], color=colour, linestyle=dashes, linewidth=1.4 * scale)
                entries.append((_MEANINGS[hazard], handle))
        if any(flags & Hazard.VALUE for flags in self.flags):
            entries.append(("(result): passed on as an argument", Line2D([], [], linestyle="")))
        if self.states is not None:
            count = Counter(self.states)
            for state, (fill, _, sign) in _STATES.items():
                if count[state]:
                    patch = Patch(facecolor=fill, edgecolor="#333333")
                    entries.append((f"{sign}{state}: {count[state]:,}", patch))
        return entries

    def _legend_columns(self, width: float) -> int:
        return max(1, int(width / 3.1))

    def _legend_rows(self, width: float) -> int:
        return -(-len(self._legend_entries()) // self._legend_columns(width))

    def _header(self, axes: Any, width: float, scale: float, corner: tuple[float, float]) -> None:
        """Write heading, reading hint and legend; larger on larger pictures."""
        hints = []
        if len(self.layout.columns) > 1:
            hints.append("read the columns from top to bottom, left to right")
        if not self.named:
            hints.append("too many for names: write .json or .graphml for those")
        heading = " \u2014 ".join([self.heading, *hints])
        # A long heading shrinks rather than being cut off.
        size = min(11 * scale, width * 72 / (0.58 * max(1, len(heading))))
        axes.text(
            corner[0] + 0.2 * scale,
            corner[1] + 0.16 * scale,
            heading,
            fontsize=size,
            fontfamily=_FONT,
            fontweight="bold",
            va="top",
            parse_math=False,
        )
        entries = self._legend_entries(scale)
        if not entries:
            return
        axes.legend(
            [handle for _, handle in entries],
            [text for text, _ in entries],
            loc="upper left",
            bbox_to_anchor=(corner[0] + 0.1 * scale, corner[1] + 0.36 * scale),
            bbox_transform=axes.transData,
            ncols=self._legend_columns(width / scale),
            prop={"family": _FONT, "size": 8.5 * scale},
            frameon=False,
            borderaxespad=0.0,
            borderpad=0.2,
            handlelength=2.6,
        )


def _line(flags: int) -> tuple[str, Any]:
    """Return colour and dashes of an edge: those of the strongest of its hazards."""
    return next((_HAZARDS[hazard] for hazard in _HAZARDS if flags & hazard), ("#555555", "-"))


def _hazard_text(flags: int) -> str:
    text = "+".join(name for name in hazard_names(flags) if name != "VALUE")
    return f"{text} (result)" if flags & Hazard.VALUE else text


def _path(points: list[tuple[float, float]]) -> Any:
    """Return a curve that leaves and arrives vertically, or a line with corners by the columns."""
    from matplotlib.path import Path

    if len(points) > 2:
        return Path(points)
    (x0, y0), (x1, y1) = points
    bend = (y1 - y0) * 0.45
    return Path(
        [(x0, y0), (x0, y0 + bend), (x1, y1 - bend), (x1, y1)],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )


def _arrow_head(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    x, y = points[-1]
    return [(x, y), (x - 0.035, y - 0.09), (x + 0.035, y - 0.09)]
