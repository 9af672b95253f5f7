"""The published scores, and which of them are known to be wrong."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.configuration import Entry, load_yaml, understood
from orchestrator.errors import ConfigError

AVERAGE = "average"
PublishedRow = tuple[str, int | str, str, str]
"""Group, fold, evaluation set and structure."""


class Erratum(Entry):
    """A known error of the published material."""

    id: str
    text: str
    rows: list[Annotated[list[str | int], Field(min_length=4, max_length=4)]] = Field(default_factory=list)
    """Those that it touches: group, fold, evaluation set and structure."""
    values: list[Literal["dsc", "nsd"]] = Field(default_factory=list)
    """Which values of these rows it touches."""
    groups: list[str] = Field(default_factory=list)
    """Of the trainings that it concerns without touching a published row."""

    @model_validator(mode="after")
    def _says_which_values(self) -> "Erratum":
        if bool(self.rows) != bool(self.values):
            raise ValueError("rows and values (dsc, nsd or both) together, or neither")
        return self


class ErrataFile(Entry):
    """A file of errata."""

    errata: list[Erratum]


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedScore:
    """One published row, as printed; scores are between 0 and 1."""

    dsc_mean: float
    dsc_std: float
    nsd_mean: float
    nsd_std: float
    dsc_erratum: str
    """Id of the erratum that touches mean or SD of the DSC, or an empty string."""
    nsd_erratum: str
    """The same for the NSD."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedScores:
    """What is published of the trainings of a study: nothing unless given."""

    scores: Mapping[PublishedRow, PublishedScore] = field(default_factory=dict)
    errata: tuple[Erratum, ...] = ()
    """Known errors of the published material."""

    @classmethod
    def read(cls, *, scores: Path, errata: Path) -> "PublishedScores":
        """Read both files; raises ConfigError if they are not as they should be."""
        listed = understood(load_yaml(errata), ErrataFile, where=str(errata), below="errata").errata
        touched = {(_published_row(row), value): one.id for one in listed for row in one.rows for value in one.values}
        found: dict[PublishedRow, PublishedScore] = {}
        try:
            with scores.open(newline="", encoding="utf-8-sig") as file:
                # Rows of the detailed tables come first and have more digits than those of the overview.
                for row in sorted(csv.DictReader(file), key=lambda row: row["level"]):
                    fold = AVERAGE if row["fold"] == AVERAGE else int(row["fold"])
                    key = (row["group"], fold, row["evaluation_set"], row["structure"])
                    score = PublishedScore(
                        dsc_mean=_share(row, "dsc_mean", where=scores),
                        dsc_std=_share(row, "dsc_std", where=scores),
                        nsd_mean=_share(row, "nsd_mean", where=scores),
                        nsd_std=_share(row, "nsd_std", where=scores),
                        dsc_erratum=touched.get((key, "dsc"), ""),
                        nsd_erratum=touched.get((key, "nsd"), ""),
                    )
                    found.setdefault(key, score)
        except (csv.Error, KeyError, OSError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{scores}: not a table of published scores ({error!r}); expected a CSV file with the columns level, "
                "group, fold, evaluation_set, structure, dsc_mean, dsc_std, nsd_mean and nsd_std, and numbers in them"
            ) from error
        if unknown := sorted(str(row) for row in {row for row, _ in touched} - set(found)):
            raise ConfigError(f"{errata}: no published score {unknown[0]}; expected one that exists")
        return cls(scores=found, errata=tuple(listed))

    def find(self, *, group: str, fold: int | str, evaluation_set: str, structure: str) -> PublishedScore | None:
        """Return a published score, or None if that row was not published; `fold` may be `average`."""
        return self.scores.get((group, fold, evaluation_set, structure))


def _share(row: Mapping[str, str], column: str, *, where: Path) -> float:
    share = float(row[column])
    if not 0 <= share <= 1:
        place = ", ".join(row[name] for name in ("group", "fold", "evaluation_set", "structure"))
        raise ConfigError(f"{where}: {column} of {place} is {row[column]}; expected a share from 0 to 1")
    return share


def _published_row(of: Sequence[str | int]) -> PublishedRow:
    group, fold, evaluation_set, structure = of
    return str(group), fold, str(evaluation_set), str(structure)
