"""The report as one HTML page that needs nothing else: no server, no request, no script."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.report import figures
from orchestrator.report.answers import Answer
from orchestrator.report.overview import OverviewRow, Quartiles
from orchestrator.report.pictures import Picture
from orchestrator.statistics.intervals import FEWEST_CLUSTERS, NUM_RESAMPLES, MeanWithInterval

_TEMPLATES = Path(__file__).with_name("templates")
_NONE = "none"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A figure with what it shows."""

    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class BesidePublished:
    """A mean of ours beside the published one."""

    group: str
    evaluation_set: str
    structure: str
    metric: str
    ours: MeanWithInterval
    mean: float
    std: float
    erratum: str
    """Id of the erratum that touches the published value, or an empty string."""

    @property
    def is_within(self) -> bool:
        """Whether our mean is within one published SD of the published one."""
        return abs(self.ours.mean - self.mean) <= self.std


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A training without scores, or a stage that failed."""

    name: str
    text: str
    """Lines; the first stands in the heading."""

    @property
    def first_line(self) -> str:
        """What stands in the heading."""
        return self.text.partition("\n")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """What the scores of a training come from."""

    training_id: str
    preset: str
    seed: int
    hours: float
    versions: str
    digests: tuple[str, str, str, str]
    """Of data, split, plan and checkpoint."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Everything that a report says."""

    title: str
    state: str
    """Whether it is whole, in a sentence."""
    notes: tuple[str, ...]
    """What must be said first."""
    location: str
    """Where the scores are."""
    set_titles: Mapping[str, str]
    answers: tuple[Answer, ...]
    rows: tuple[OverviewRow, ...]
    published: tuple[BesidePublished, ...]
    errata: tuple[str, ...]
    figures: tuple[Figure, ...]
    failures: tuple[Failure, ...]
    methods: str
    origins: tuple[Origin, ...]
    files: tuple[tuple[str, str], ...]
    pictures: tuple[Picture, ...] = ()
    num_resamples: int = NUM_RESAMPLES
    fewest_clusters: int = FEWEST_CLUSTERS

    def set_title(self, name: str) -> str:
        """Return the title of an evaluation set."""
        return self.set_titles.get(name, name)


def to_html(page: Page) -> str:
    """Return a page as HTML; every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "percent": percent,
        "share": share,
        "quartiles": quartiles,
        "counts": counts,
        "basis": basis,
        "left_out": left_out,
        "number": number,
        "p_value": p_value,
        # Of matplotlib, which escapes the texts in it.
        "forest": lambda answer: Markup(figures.forest(answer)),
    }
    environment.filters["svg"] = Markup
    return environment.get_template("report.html.j2").render(page=page)


def percent(value: MeanWithInterval, *, signed: bool = False) -> str:
    """Return a mean with its interval in per cent: `93.1 (91.9 to 94.0)`."""
    if math.isnan(value.mean):
        return _NONE
    sign = "+" if signed else ""
    mean = f"{100 * value.mean:{sign}.1f}"
    return f"{mean} ({100 * value.low:{sign}.1f} to {100 * value.high:{sign}.1f})" if value.has_interval else mean


def share(value: float) -> str:
    """Return a number between 0 and 1 in per cent."""
    return _NONE if math.isnan(value) else f"{100 * value:.1f}"


def number(value: float) -> str:
    """Return a number with two digits."""
    return _NONE if math.isnan(value) else f"{value:+.2f}"


def p_value(value: float) -> str:
    """Return a p with three digits."""
    if math.isnan(value):
        return _NONE
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def quartiles(value: Quartiles, scale: float = 1.0) -> str:
    """Return median and quartiles: `2.1 (1.4 to 5.0)`."""
    if not value.num_finite:
        return _NONE
    low, median, high = (scale * part for part in (value.low, value.median, value.high))
    return f"{median:.1f} ({low:.1f} to {high:.1f})"


def counts(value: Quartiles) -> str:
    """Return of how many cases a median is."""
    empty = f"; there is none where one mask is empty: n = {value.num_infinite}" if value.num_infinite else ""
    return f"median and quartiles, n = {value.num_finite}{empty}"


def basis(row: OverviewRow, value: MeanWithInterval) -> str:
    """Return what a mean rests on."""
    few = "" if value.has_interval or not value.num_cases else f"; fewer than {FEWEST_CLUSTERS}, so without an interval"
    return f"n = {value.num_cases}, patients: {value.num_clusters}{few}; {', '.join(row.trainings)}"


def left_out(row: OverviewRow) -> str:
    """Return which cases are in no mean."""
    parts: Sequence[tuple[int, str]] = ((row.num_both_empty, "both empty"), (row.num_missing, "missing"))
    return ", ".join(f"{num} {what}" for num, what in parts if num)
