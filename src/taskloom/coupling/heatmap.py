"""A relatedness table, or two side by side, as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from taskloom.coupling.compare import Comparison
from taskloom.coupling.relatedness import Relatedness
from taskloom.errors import ConfigError

_MAX_NAMED = 60
_MAX_WRITTEN = 400
_ENDINGS = (".png", ".svg", ".pdf")


def draw_heatmap(table: Relatedness | Comparison) -> Figure:
    """Draws a table, or a comparison: prior, data, and crosses where they contradict.

    Darker is nearer to 1, grey is unknown. Entries are written in as long as they can be read.

    Args:
        table: A relatedness, or what `diff` or `check` gave.

    Returns:
        A matplotlib figure, drawn without a window.

    Example:
        >>> figure = draw_heatmap(Relatedness(("cat",), ("fur",), np.array([[1.0]]), source="pets"))
        >>> figure.axes[0].get_title()
        'pets (weights)'
    """
    tables = [table] if isinstance(table, Relatedness) else [table.prior, table.data]
    rows, columns = tables[0].values.shape
    width = min(max(3.0, 0.42 * columns + 1.6), 16.0)
    height = min(max(1.6, 0.32 * rows + 1.2), 14.0)
    figure = Figure(figsize=(width, height * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), 1, squeeze=False)[:, 0]
    for axes, one in zip(panels, tables, strict=True):
        _draw(axes, one)
    if isinstance(table, Comparison):
        crossed = np.argwhere(table.contradicts)
        panels[1].plot(crossed[:, 1], crossed[:, 0], "x", color="#D55E00", markersize=11, label="contradicts")
        agreement = f", agreement {table.agreement:.2f}" if not np.isnan(table.agreement) else ""
        panels[1].set_xlabel(
            f"{len(crossed)} of {table.num_compared} entries contradict (crosses){agreement}", fontsize=9
        )
    return figure


def save_heatmap(table: Relatedness | Comparison, path: Path | str) -> None:
    """Writes `draw_heatmap(table)` as .png, .svg or .pdf.

    Raises:
        ConfigError: Another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"{path}: a heatmap is written as {', '.join(_ENDINGS)}, found `{path.suffix}`.")
    draw_heatmap(table).savefig(path, dpi=150)


def _draw(axes: Axes, table: Relatedness) -> None:
    shown = np.ma.masked_invalid(table.values)
    axes.set_facecolor("#d8d8d8")
    axes.imshow(shown, cmap="Blues", vmin=0.0, vmax=1.0, aspect="auto", interpolation="nearest")
    axes.set_title(f"{table.source} ({table.kind})", fontsize=10)
    for names, axis in ((table.attributes, axes.xaxis), (table.classes, axes.yaxis)):
        step = max(1, -(-len(names) // _MAX_NAMED))
        axis.set_ticks(range(0, len(names), step), labels=list(names[::step]))
    axes.tick_params(labelsize=8, length=0)
    axes.tick_params(axis="x", rotation=90 if max(map(len, table.attributes)) > 4 else 0)
    if table.values.size > _MAX_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(table.values):
        if np.isnan(value):
            text = "?"
        elif value == 0:
            continue
        else:
            text = f"{value:.2f}".removeprefix("0").removesuffix(".00")
        colour = "white" if value > 0.6 else "black"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=colour)
