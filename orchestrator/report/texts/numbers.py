"""Numbers of a report as texts."""

import math
from collections.abc import Iterable, Sequence
from decimal import ROUND_HALF_UP, Decimal

from orchestrator.report.overview import OverviewRow, Quartiles
from orchestrator.scoring.leaderboard import Standing
from orchestrator.statistics.intervals import FEWEST_CLUSTERS, MeanWithInterval
from orchestrator.statistics.mixed import MixedModel
from orchestrator.usage import Cost, Usage

_NONE = "none"
_ROUNDING = 1e-12


def one_decimal(share: float, *, sign: str = "") -> str:
    """Return a share in per cent, a half rounded up, as published tables do.

    As a binary number, 0.7055 lies a little below it.
    """
    return f"{(100 * Decimal(repr(float(share)))).quantize(Decimal('0.1'), ROUND_HALF_UP):{sign}}"


def points(value: float, *, signed: bool = False) -> str:
    """Return a number between -1 and 1 in per cent with one decimal; with two digits where that would be 0.

    An end of an interval says on which side of 0 it is.
    """
    # What sums of equal scores differ by is rounding.
    value = 0.0 if abs(value) < _ROUNDING else value
    sign = "+" if signed else ""
    text = one_decimal(value, sign=sign)
    return f"{100 * value:{sign}.2g}" if value and not float(text) else text


def with_interval(value: MeanWithInterval, *, signed: bool = False) -> str:
    """Return a mean with its interval in per cent: `93.1 (91.9 to 94.0)`."""
    if math.isnan(value.mean):
        return _NONE
    mean, low, high = (points(one, signed=signed) for one in (value.mean, value.low, value.high))
    return f"{mean} ({low} to {high})" if value.has_interval else mean


def modelled(value: MixedModel) -> str:
    """Return a difference of a mixed model with its interval in points: `+2.8 (-0.3 to +5.8)`."""
    difference, low, high = (points(one, signed=True) for one in (value.difference, value.low, value.high))
    return f"{difference} ({low} to {high})"


def spread(value: float) -> str:
    """Return an SD in points, with two digits; `-` of what is not told."""
    return "-" if math.isnan(value) else f"{100 * value:.2f}"


def as_percent(value: float) -> str:
    """Return a number between 0 and 1 in per cent."""
    return _NONE if math.isnan(value) else points(value)


def with_sign(value: float) -> str:
    """Return a number with its sign and two decimals."""
    return _NONE if math.isnan(value) else f"{value:+.2f}"


def p_value(value: float) -> str:
    """Return a p with three digits."""
    if math.isnan(value):
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def quartiles(value: Quartiles, scale: float = 1.0, digits: str = ".1f") -> str:
    """Return median and quartiles: `2.1 (1.4 to 5.0)`; with `, n = 8` where cases with a score have no such number."""
    if not value.num_finite:
        return _NONE
    low, median, high = (scale * part for part in (value.low, value.median, value.high))
    number_of_cases = f", n = {value.num_finite}" if value.num_infinite else ""
    return f"{median:{digits}} ({low:{digits}} to {high:{digits}}){number_of_cases}"


def measure(value: Quartiles) -> str:
    """Return median and quartiles of a metric of any unit and size."""
    return quartiles(value, digits=".3g")


def counts(value: Quartiles) -> str:
    """Return of how many cases a median is."""
    empty = f"; there is none where one mask is empty: n = {value.num_infinite}" if value.num_infinite else ""
    return f"median and quartiles, n = {value.num_finite}{empty}"


def sample(value: MeanWithInterval, unit: str = "patient") -> str:
    """Return of how many cases and patients a mean is."""
    reason = f"fewer than {FEWEST_CLUSTERS}" if value.num_clusters < FEWEST_CLUSTERS else "all equal"
    without = "" if value.has_interval or not value.num_cases else f"; {reason}, so without an interval"
    return f"n = {value.num_cases}, {unit}s scored: {value.num_clusters}{without}"


def basis(row: OverviewRow, value: MeanWithInterval, unit: str = "patient") -> str:
    """Return what a mean of the table of scores rests on."""
    return f"{sample(value, unit)}; {', '.join(row.trainings)}"


def left_out(row: OverviewRow, *, of_distances: bool = True) -> str:
    """Return which cases are in no mean, and unless only those are shown, which in those of DSC and NSD alone."""
    parts: Sequence[tuple[int, str]] = (
        (row.num_both_empty, "both empty"),
        (row.num_missing, "missing"),
        (row.hd95_mm.num_infinite if of_distances else 0, "without distances"),
    )
    return ", ".join(f"{num} {what}" for num, what in parts if num)


def span(numbers: Iterable[int]) -> str:
    """Return the least and the largest of numbers: `3 to 5`, or `3` if they are the same."""
    found = sorted(numbers)
    return f"{found[0]}" if found[0] == found[-1] else f"{found[0]} to {found[-1]}"


def rank_range(standing: Standing) -> str:
    """Return between which ranks a method lies when patients are drawn anew."""
    if standing.rank_low is None:
        return f"too few ({FEWEST_CLUSTERS} needed)"
    return f"{standing.rank_low} to {standing.rank_high}"


def hours_text(hours: float) -> str:
    """Return hours as far as they matter: `< 0.01`, `0.50`, `12.4`, `406`."""
    if 0 < hours < 0.005:
        return "< 0.01"
    return f"{hours:.{2 if hours < 10 else int(hours < 100)}f}"


def cost_text(cost: Cost | None, usage: Usage) -> str:
    """Return what is known of the cost of the GPU hours of a run, in a sentence."""
    if not usage.gpu_hours:
        return "No GPU was used; what the processors cost is not known."
    if cost is None:
        return "Cost: not known; no price list was given for these machines."
    low, high = f"{cost.low_usd:.2f}", f"{cost.high_usd:.2f}"
    amount = low if low == high else f"{low} to {high}"
    return (
        f"Cost of these GPU hours: {amount} USD with the prices of {cost.prices_date}; without machines that waited or "
        "have no GPU."
    )
