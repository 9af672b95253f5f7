"""Which groups of trainings, and which submissions, come first."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.report.answers import METRICS
from orchestrator.scoring.leaderboard import Leaderboard, leaderboard, to_csv
from orchestrator.statistics.intervals import FEWEST_CLUSTERS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True, slots=True)
class Ranked:
    """A leaderboard and what it is of."""

    title: str
    board: Leaderboard


def ranked_by_structure(rows: "pd.DataFrame", *, set_titles: Mapping[str, str]) -> tuple[Ranked, ...]:
    """Rank all groups that were tested in the same structure and evaluation set, on the patients that all share.

    There is none of fewer than FEWEST_CLUSTERS patients: how sure it is could not be said. Nor is there one without any
    score: nobody is first of those who have none.

    `rows` are those of `scores_frame`, perhaps with those of submissions.
    """
    found = []
    for (evaluation_set, structure), part in rows.groupby(["evaluation_set", "structure"], sort=False):
        if part["group"].nunique() > 1 and part[list(METRICS)].notna().any(axis=None):
            title = f"{structure}, {set_titles.get(str(evaluation_set), str(evaluation_set))}"
            found.append(Ranked(title=title, board=ranked(part, metrics=METRICS)))
    return tuple(one for one in found if one.board.num_cases >= FEWEST_CLUSTERS)


def ranked(rows: "pd.DataFrame", *, metrics: Sequence[str]) -> Leaderboard:
    """Rank groups over all of their structures; cases of one patient are averaged."""
    named = rows.drop(columns=["case"]).rename(columns={"group": "method", "patient": "case"})
    return leaderboard(named, metrics=metrics)


def rank_files(found: Sequence[Ranked]) -> dict[str, bytes]:
    """Return the contents of `leaderboard.csv` and `ranks.csv`; none without a ranking."""
    if not found:
        return {}
    return {
        "leaderboard.csv": to_csv({one.title: one.board.standings for one in found}).encode(),
        "ranks.csv": to_csv({one.title: one.board.places for one in found}).encode(),
    }
