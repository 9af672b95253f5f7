"""Figures of a search: what its trials cost and reached, and which settings they had."""

import math
from collections.abc import Sequence
from itertools import accumulate
from textwrap import wrap
from typing import TYPE_CHECKING

from orchestrator.report.figures import COLOURS, new_figure, plain, svg_of
from orchestrator.results.trials import SearchRecord, TrialRecord
from orchestrator.statistics.importance import is_numeric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MANY_TIMES = 30.0
"""The largest of positive numbers is so many times the smallest: their logarithms are drawn."""
_MOST_LETTERS = 18


def best_so_far(search: SearchRecord) -> str:
    """Return the score of each trial, and the best so far, against what all trials up to it took."""
    costs: dict[str, list[float]] = {
        "hours of training": [trial.hours for trial in search.trials],
        "epochs": [trial.epochs_in_all for trial in search.trials],
    }
    with new_figure(height_in=2.9, columns=2) as (figure, axes):
        for axis, (title, cost) in zip(axes, costs.items(), strict=True):
            spent = list(accumulate(cost))
            _points(axis, _scored(search), spent=spent)
            axis.set_xlabel(f"{title}, of all trials so far")
            axis.set_xlim(left=0)
        axes[0].set_ylabel(f"{search.metric.upper()} of cases left out")
        axes[0].legend(frameon=False, loc="best")
        return svg_of(figure)


def _points(axis: "Axes", scored: Sequence[tuple[TrialRecord, float]], *, spent: Sequence[float]) -> None:
    for is_whole, label in ((True, "trained to its end"), (False, "ended early")):
        shown = [(spent[trial.number], score) for trial, score in scored if trial.is_whole == is_whole]
        axis.plot(
            [place for place, _ in shown],
            [score for _, score in shown],
            "o",
            markersize=4.5,
            color=COLOURS[0],
            fillstyle="full" if is_whole else "none",
            label=label,
        )
    whole = [(spent[trial.number], score) for trial, score in scored if trial.is_whole]
    if whole:
        best = list(accumulate((score for _, score in whole), max))
        places = [place for place, _ in whole]
        axis.step([*places, spent[-1]], [*best, best[-1]], where="post", color=COLOURS[1], label="the best so far")


def _scored(search: SearchRecord) -> list[tuple[TrialRecord, float]]:
    scores = [(trial, search.score(trial)) for trial in search.trials]
    return [(trial, score) for trial, score in scores if score is not None]


def parallel_coordinates(search: SearchRecord) -> str:
    """Return a line a trial over an axis for each setting, and one for its score; the best stands out."""
    scored = _scored(search)
    names = list(scored[0][0].settings)
    scales = [_scale([trial.settings[name] for trial, _ in scored]) for name in names]
    scales.append(_scale([score for _, score in scored]))
    with new_figure(height_in=3.6, width_in=max(8.0, 1.5 * len(scales))) as (figure, (axis,)):
        for number, (trial, _) in enumerate(scored):
            is_best = trial.number == search.best
            axis.plot(
                range(len(scales)),
                [places[number] for places, _ in scales],
                color=COLOURS[1] if is_best else COLOURS[0],
                linewidth=2.6 if is_best else 0.9,
                linestyle="-" if trial.is_whole else (0, (3, 2)),
                alpha=1.0 if is_best else 0.55,
                zorder=3 if is_best else 2,
            )
        for place, (_, ticks) in enumerate(scales):
            axis.axvline(place, color="black", linewidth=0.8)
            for height, text in ticks:
                axis.plot([place - 0.02, place + 0.02], [height, height], color="black", linewidth=0.8)
                axis.text(place + 0.035, height, plain(text), fontsize=7, va="center", zorder=4, bbox=_BEHIND)
        axis.set_xticks(range(len(scales)), [*(plain(_in_lines(name)) for name in names), search.metric.upper()])
        axis.set_xlim(-0.1, len(scales) - 0.6)
        axis.set_ylim(-0.06, 1.06)
        axis.set_yticks([])
        axis.spines[["left", "bottom"]].set_visible(False)
        axis.tick_params(axis="x", length=0)
        return svg_of(figure)


_BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.8}


def _scale(values: Sequence[object]) -> tuple[list[float], list[tuple[float, str]]]:
    """Return where values lie on an axis from 0 to 1, and its ticks."""
    if not is_numeric(values):
        names = [str(value) for value in values]
        categories = sorted(set(names))
        step = 1 / max(1, len(categories) - 1)
        heights = {name: number * step if len(categories) > 1 else 0.5 for number, name in enumerate(categories)}
        return [heights[name] for name in names], [(height, _short(name)) for name, height in heights.items()]
    numbers = [float(str(value)) for value in values]
    is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= _MANY_TIMES
    shown = [math.log10(number) for number in numbers] if is_log else numbers
    low, high = min(shown), max(shown)
    if low == high:
        return [0.5] * len(shown), [(0.5, f"{numbers[0]:.3g}")]
    levels = [level for level in _levels(values, low, high, is_log=is_log) if low <= level <= high]
    ticks = [((level - low) / (high - low), f"{10**level if is_log else level:.3g}") for level in levels]
    return [(value - low) / (high - low) for value in shown], ticks


def _levels(values: Sequence[object], low: float, high: float, *, is_log: bool) -> Sequence[float]:
    """Return round numbers in a range: whole ones of whole ones, powers of ten of logarithms where there are some."""
    from matplotlib.ticker import MaxNLocator

    is_whole = all(isinstance(value, int) for value in values)
    found = list(map(float, MaxNLocator(5, integer=is_log or is_whole).tick_values(low, high)))
    return found if sum(low <= level <= high for level in found) > 1 else [low, high]


def _in_lines(name: str) -> str:
    """Return a name of several words in lines."""
    return "\n".join(wrap(name.replace("_", " "), _MOST_LETTERS))


def _short(text: str) -> str:
    return text if len(text) <= _MOST_LETTERS else f"{text[: _MOST_LETTERS - 1]}…"
