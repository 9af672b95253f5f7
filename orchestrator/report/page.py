"""Everything that the report of a run says, before it is HTML, Markdown or LaTeX."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.report.answers import Answer
from orchestrator.report.live.state import LiveState
from orchestrator.report.looks.decisions import Decisions
from orchestrator.report.overview import OverviewRow
from orchestrator.report.parts import Gaps, Parts
from orchestrator.report.pictures import Picture
from orchestrator.report.ranks import Ranked
from orchestrator.report.search import SearchSection
from orchestrator.report.texts.definitions import definitions
from orchestrator.statistics.intervals import MeanWithInterval
from orchestrator.usage import Cost, Usage

_MOST_SHOWN = 200
"""Lines of the table of scores that are shown at once."""


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
    def difference(self) -> MeanWithInterval:
        """Ours less the published mean, which is a number without its cases: the interval is that of ours, moved."""
        mean, low, high = (number - self.mean for number in (self.ours.mean, self.ours.low, self.ours.high))
        return replace(self.ours, mean=mean, low=low, high=high)

    @property
    def within(self) -> str:
        """Whether our mean is within one published SD of the published one: `yes`, `no`, or `-` where we have none."""
        if math.isnan(self.ours.mean):
            return "-"
        return "yes" if abs(self.ours.mean - self.mean) <= self.std else "no"


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
    further: tuple[FurtherMetric, ...] = ()
    """What stands beside the scores that every study has."""
    pictures: tuple[Picture, ...] = ()
    rankings: tuple[Ranked, ...] = ()
    parts: tuple[Parts, ...] = ()
    gaps: tuple[Gaps, ...] = ()
    search: SearchSection | None = None
    """Of trials, if the trainings are some."""
    usage: Usage | None = None
    """What it took of its machines; None if nothing has run."""
    timeline: Figure | None = None
    """When the trainings ran."""
    cost: Cost | None = None
    """None where nothing tells prices."""
    decisions: Decisions | None = None
    """Of the looks of a run that ends once its questions are answered."""
    live: LiveState | None = None
    """How far the run is, if it goes on and the page is read again and again."""
    what: str = "trainings"
    """What has the scores."""
    unit: str = "patient"
    """What is drawn anew: a case, where nobody says of whom it is."""

    @property
    def is_long(self) -> bool:
        """Whether the table of scores is better shown when it is asked for."""
        return len(self.rows) > _MOST_SHOWN

    @property
    def definitions(self) -> tuple[tuple[str, str], ...]:
        """Words of the page and what each means."""
        return definitions(
            unit=self.unit, further=self.further, answers=self.answers, has_looks=self.decisions is not None
        )

    @property
    def counted(self) -> str:
        """How often a case counts in a mean, a sentence with a space before it; nothing where it has one score."""
        once = "A case that several trainings are tested on counts once for each of them."
        return f" {once}" if self.what == "trainings" else ""

    def set_title(self, name: str) -> str:
        """Return the title of an evaluation set."""
        return self.set_titles.get(name, name)
