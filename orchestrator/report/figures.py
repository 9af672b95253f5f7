"""Figures as SVG that can stand within a page: text stays text, and equal data are equal bytes."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.report.answers import Answer
from orchestrator.results.aggregate import mean_of
from orchestrator.results.curves import CurveRow

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#999999")
"""Of Okabe and Ito: told apart by readers who do not see red or green."""
_WIDTH_IN = 8.0
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.size": 8.0,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_MOST_POINTS = 4000
"""Of one figure that are drawn as shapes; of more the page would grow, and they are drawn as one picture."""


def scores_by_group(rows: "pd.DataFrame") -> str:
    """Return DSC and NSD of each case by group, for one structure and evaluation set: points, median and quartiles."""
    groups = list(dict.fromkeys(rows["group"]))
    with new_figure(height_in=0.9 + 0.26 * len(groups), columns=2) as (figure, axes):
        random = np.random.default_rng(0)
        for axis, metric in zip(axes, ("dsc", "nsd"), strict=True):
            scored = rows[rows[metric].notna()]
            by_group = dict(iter(scored.groupby("group", sort=False)[metric]))
            values = [by_group[group].to_numpy() if group in by_group else np.empty(0) for group in groups]
            heights = [place + random.uniform(-0.28, 0.28, found.size) for place, found in enumerate(values)]
            # One of each for all groups: matplotlib takes its time for each thing that it draws.
            axis.scatter(np.concatenate(values), np.concatenate(heights), s=7, alpha=0.45, color=COLOURS[0],
                         linewidths=0, rasterized=len(rows) > _MOST_POINTS)  # fmt: skip
            places = [place for place, found in enumerate(values) if found.size]
            quartiles = [np.quantile(found, [0.25, 0.5, 0.75]) for found in values if found.size]
            if quartiles:
                low, median, high = np.transpose(quartiles)
                axis.hlines(places, low, high, color="black", linewidth=2.4)
                axis.plot(median, places, "|", color="black", markersize=11, markeredgewidth=2)
            axis.set_xlim(-0.02, 1.02)
            axis.set_xlabel(metric.upper())
        _label_rows(figure, axes, groups)
        return svg_of(figure)


def forest(answer: Answer, set_titles: Mapping[str, str]) -> str:
    """Return the differences of an answer with their intervals, in points."""
    shown = answer.differences
    with new_figure(height_in=0.9 + 0.24 * len(shown)) as (figure, (axis,)):
        parts: dict[tuple[str, bool], list[int]] = {}
        for place, one in enumerate(shown):
            parts.setdefault((one.key.metric, one.verdict in {"higher", "lower"}), []).append(place)
        # One of each for all of one look: matplotlib takes its time for each thing that it draws.
        for (metric, is_shown), places in parts.items():
            colour = COLOURS[0] if metric == "dsc" else COLOURS[1]
            found = [shown[place].result.difference for place in places]
            ends = [(place, one.low, one.high) for place, one in zip(places, found, strict=True) if one.has_interval]
            if ends:
                heights, low, high = np.transpose(ends)
                axis.hlines(heights, 100 * low, 100 * high, color=colour, linewidth=1.6)
            style = "full" if is_shown else "none"
            axis.plot([100 * one.mean for one in found], places, "o", color=colour, markersize=5, fillstyle=style)
        labels = [
            f"{key.against}: {key.structure}, {set_titles.get(key.evaluation_set, key.evaluation_set)}, "
            f"{key.metric.upper()}"
            for key in (one.key for one in shown)
        ]
        axis.axvline(0, color="#888888", linewidth=0.8)
        axis.set_xlabel("second less first, in points, with its 95 % interval (filled: shown)")
        _label_rows(figure, [axis], labels)
        return svg_of(figure)


def overlap_and_surface(rows: "pd.DataFrame") -> str:
    """Return NSD against DSC of every case, by structure."""
    with new_figure(height_in=4.2, width_in=5.2) as (figure, (axis,)):
        _cases_by_structure(axis, rows, across="dsc", up="nsd")
        axis.set_xlabel("DSC")
        axis.set_ylabel("NSD")
        return svg_of(figure)


def score_by_size(rows: "pd.DataFrame") -> str:
    """Return DSC against the volume of the structure in the reference, by structure."""
    there = rows[(rows["reference_ml"] > 0) & rows["dsc"].notna()]
    with new_figure(height_in=4.2, width_in=5.2) as (figure, (axis,)):
        _cases_by_structure(axis, there, across="reference_ml", up="dsc")
        axis.set_xscale("log")
        axis.set_xlabel("volume in the reference (ml)")
        axis.set_ylabel("DSC")
        return svg_of(figure)


def _cases_by_structure(axis: "Axes", rows: "pd.DataFrame", *, across: str, up: str) -> None:
    """Draw a point for each row, from two of its columns; the legend names the structures, if there are some."""
    points = {
        plain(str(structure)): axis.scatter(part[across], part[up], s=7, alpha=0.45, color=colour, linewidths=0,
                                            rasterized=len(rows) > _MOST_POINTS)
        for colour, (structure, part) in zip(_colours(), rows.groupby("structure", sort=False), strict=False)
    }  # fmt: skip
    if points:
        # Given to it: by itself it leaves out what begins with an underscore.
        axis.legend(list(points.values()), list(points), frameon=False, markerscale=2)


def learning_curves(epochs: "pd.DataFrame") -> str:
    """Return loss of training and validation and the Dice of patches, by epoch; one line a training.

    `epochs` has columns training, epoch, train_loss, val_loss, pseudo_dice.
    """
    titles = {"train_loss": "training loss", "val_loss": "validation loss", "pseudo_dice": "Dice of patches"}
    with new_figure(height_in=2.7, columns=3) as (figure, axes):
        for axis, (column, title) in zip(axes, titles.items(), strict=True):
            for _, part in epochs.groupby("training", sort=True):
                axis.plot(part["epoch"] + 1, part[column].astype(float), linewidth=0.8, alpha=0.6, color=COLOURS[0])
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("epoch")
        return svg_of(figure)


def validation_curves(curves: Mapping[str, Sequence[CurveRow]]) -> str:
    """Return DSC and NSD of whole validation cases by epoch, means over structures and cases; one line a training."""
    with new_figure(height_in=2.9, columns=2) as (figure, axes):
        for axis, metric in zip(axes, ("dsc", "nsd"), strict=True):
            for colour, (_, rows) in zip(_colours(), sorted(curves.items()), strict=False):
                epochs = sorted({row.epoch for row in rows})
                means = [mean_of(getattr(row, metric) for row in rows if row.epoch == epoch) for epoch in epochs]
                axis.plot(epochs, means, "o-", markersize=3, linewidth=0.9, alpha=0.8, color=colour)
            axis.set_xlabel("epoch")
            axis.set_ylabel(metric.upper())
            axis.set_ylim(-0.02, 1.02)
        return svg_of(figure)


def timeline(spans: Sequence[tuple[str, float, float, str]]) -> str:
    """Return when trainings ran: spans of id, start and end in hours, and machine, in as few lanes as fit."""
    machines = list(dict.fromkeys(machine for *_, machine in spans))
    ends: list[float] = []
    lanes = []
    for _, start, end, _ in sorted(spans, key=lambda span: span[1]):
        free = next((lane for lane, until in enumerate(ends) if until <= start), len(ends))
        ends[free:] = [end, *ends[free + 1 :]] if free < len(ends) else [end]
        lanes.append(free)
    # Room for the words along the axis, also where one training ran at a time.
    with new_figure(height_in=max(1.5, 0.9 + 0.22 * len(ends))) as (figure, (axis,)):
        for lane, (_, start, end, machine) in zip(lanes, sorted(spans, key=lambda span: span[1]), strict=True):
            colour = COLOURS[machines.index(machine) % len(COLOURS)]
            axis.barh(lane, end - start, left=start, height=0.8, color=colour, edgecolor="white", linewidth=0.4)
        axis.set_yticks([])
        axis.set_ylabel("trainings at a time")
        axis.set_xlabel("hours since the run began")
        return svg_of(figure)


def _label_rows(figure: "Figure", axes: "Sequence[Axes]", labels: Sequence[str]) -> None:
    """Label the rows 0, 1, ... of the first axes from the top; the others have the same rows and no labels."""
    first, *others = axes
    labels = [*map(plain, labels)]
    for axis in axes:
        axis.set_ylim(len(labels) - 0.4, -0.6)
        axis.set_yticks([])
    # The layout needs no more than the widest label, and one text of many lines is measured in a fraction of the time.
    first.set_yticks([(len(labels) - 1) / 2], ["\n".join(labels)])
    _lay_out(figure)
    first.set_yticks(range(len(labels)), labels)
    for axis in others:
        axis.set_yticks(range(len(labels)))
        axis.tick_params(labelleft=False)


def plain(text: str) -> str:
    """Return a text for matplotlib to draw as it is: what stands between two $ would be a formula to it."""
    return text.replace("$", r"\$")


def _lay_out(figure: "Figure") -> None:
    """Give everything of a figure its place, once; to leave it to the saving would draw all a second time for it."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)


def _colours() -> Iterator[str]:
    while True:
        yield from COLOURS


@contextmanager
def new_figure(
    *, height_in: float, width_in: float = _WIDTH_IN, columns: int = 1
) -> Iterator[tuple["Figure", "Sequence[Axes]"]]:
    """Context with a new figure and its axes; the settings of the process are as before afterwards."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS), warnings.catch_warnings():
        # A page shows its text in the fonts of its reader, and these have more letters. Names of a hundred letters
        # leave no room between them; the tables have both.
        warnings.filterwarnings("ignore", message="Glyph .* missing from|constrained_layout not applied")
        figure = Figure(figsize=(width_in, height_in), layout="constrained")
        yield figure, list(np.atleast_1d(figure.subplots(1, columns)))


def svg_of(figure: "Figure") -> str:
    """Return a figure as SVG that can stand within a page."""
    buffer = io.StringIO()
    _lay_out(figure)
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    text = buffer.getvalue()
    # What a page needs of it: no XML declaration, and a size that follows the page.
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text[text.index("<svg") :], count=1)
    return re.sub(r'(<svg[^>]*?) width="([^"]*)"', r'\1 width="100%" style="max-width: \2"', text, count=1)
