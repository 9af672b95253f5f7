"""The questions of a study answered: whether the trainings of one kind are better than those of another."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from orchestrator.benchmark.definition import TRAINING_SEED, Training
from orchestrator.benchmark.tables import ComparisonSpec, compared_groups
from orchestrator.report.texts.numbers import points, span
from orchestrator.results.records import ScoreStatus
from orchestrator.statistics.comparison import FEWEST_DIFFERENCES, PairedComparison, compare_paired, corrected_by_holm
from orchestrator.statistics.intervals import ALPHA, cut_difference
from orchestrator.statistics.mixed import Crossed, MixedModel, mixed_model
from orchestrator.statistics.sequential import Crossing
from orchestrator.workflow.looks import DifferenceKey

if TYPE_CHECKING:
    import pandas as pd

METRICS = ("dsc", "nsd")
"""What is compared: both lie between 0 and 1, and are defined where a mask is empty."""
UNDECIDED = "undecided"
_CASE = ("evaluation_set", "structure", "dataset", "case")
_MOST_EXACT = 13
"""Patients up to which scipy's test is exact with ties and zeros."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """Where a test of a run is that ends once its questions are answered."""

    key: DifferenceKey
    look: int
    """The latest in which it took part; 0 for none yet."""
    num_trainings: int
    """Of both groups together, in that look."""
    num_patients: int
    """In that look."""
    crossing: Crossing | None
    """With what it was shown, if it was."""
    level: float
    """Error that it may make, over all looks."""
    chance: float
    """To be shown with all trainings, if they go on as they began."""
    is_closed: bool
    """Whether the trainings to come can hardly change it any more."""

    @property
    def verdict(self) -> str:
        """`higher`, `lower` or `undecided`."""
        if self.crossing is None:
            return UNDECIDED
        return "higher" if self.crossing.direction > 0 else "lower"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One test of a family."""

    key: DifferenceKey
    """What it is of."""
    baseline_mean: float
    """Over the cases that both have a score of, two empty masks as 1 where either predicts something."""
    against_mean: float
    num_unpaired: int
    """Cases that only one of them has a score of: they are left out."""
    result: PairedComparison
    mixed: MixedModel | None = None
    """The difference over other trainings as well; None where patients do not have several, or these are too few."""
    is_sequential: bool = False
    """Whether looks decide, and not the test of all that there is."""
    decision: Decision | None = None
    """Of the looks; None of a test that was not planned, or before the first look."""

    @property
    def verdict(self) -> str:
        """`higher` or `lower` if test and interval both say so, else `not shown`; `undecided` where looks decide."""
        if self.is_sequential:
            return self.decision.verdict if self.decision else UNDECIDED
        found, interval = self.result, self.result.difference
        if not (found.p_corrected < ALPHA and interval.has_interval):
            return "not shown"
        # Most patients may be a little better, and a few so much worse that the mean is: ranks and means then disagree.
        if interval.low > 0 and found.direction > 0:
            return "higher"
        return "lower" if interval.high < 0 and found.direction < 0 else "not shown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """A family of tests."""

    spec: ComparisonSpec
    differences: tuple[Difference, ...]
    set_titles: Mapping[str, str] = field(default_factory=dict)
    """Of evaluation sets; what has none is called by its name."""

    @property
    def num_tests(self) -> int:
        """Tests that the correction is over."""
        return sum(not math.isnan(one.result.p) for one in self.differences)

    @property
    def sentence(self) -> str:
        """The answer in short, with what it rests on."""
        if not self.differences:
            return "Nothing to compare yet: no case has scores of both."
        verdicts = [one.verdict for one in self.differences]
        clusters = [one.result.difference.num_clusters for one in self.differences]
        patients = span(clusters)
        if any(one.is_sequential for one in self.differences):
            return f"{_sentence_of_looks(verdicts, patients=patients)} {self._largest}{self._unpaired}"
        if not self.num_tests:
            is_few = max(clusters) < FEWEST_DIFFERENCES
            reason = "Too few patients for a" if is_few else "No difference in any patient, so there is no"
            return f"{reason} test (n = {patients}).{self._unpaired}"
        return (
            f"Of {len(verdicts)} differences (structure, evaluation set, DSC or NSD), {verdicts.count('higher')} are "
            f"shown to be higher, {verdicts.count('lower')} lower; {verdicts.count('not shown')} are not shown"
            f"{self._untested}. {self._powerless}{self._largest} "
            f"n = {patients} patients, Wilcoxon signed rank, Holm over {self.num_tests} tests at {ALPHA}, and a 95 % "
            f"interval without 0.{self._unpaired}"
        )

    @property
    def _untested(self) -> str:
        """Why some differences have no test, or no interval, where any has none."""
        without = [one.result.difference.num_clusters for one in self.differences if math.isnan(one.result.p)]
        num_few = sum(num < FEWEST_DIFFERENCES for num in without)
        num_alike = sum(
            not (math.isnan(one.result.p) or one.result.difference.has_interval) for one in self.differences
        )
        reasons = (
            (num_few, "a test: too few patients"),
            (len(without) - num_few, "a test: no difference in any patient"),
            (num_alike, "an interval: the same difference in all patients"),
        )
        return "".join(f", {num} of them for want of {reason}" for num, reason in reasons if num)

    @property
    def _powerless(self) -> str:
        """That nothing could be shown, where the least p that the tests can give is too large once it is corrected."""
        tested = [one.result for one in self.differences if not math.isnan(one.result.p)]
        num_differing = max(map(_num_differing, tested))
        least = min(1.0, 2 / 2**num_differing * len(tested))
        if least < ALPHA:
            return ""
        return (
            f"None of them could be shown, however large: {len(tested)} tests of at most {num_differing} patients who "
            f"differ give no p (Holm) below {least:.3f}, and {ALPHA} is needed. "
        )

    @property
    def _largest(self) -> str:
        """The largest of the differences that are shown, or of all if none is, with what it is of."""
        shown = [one for one in self.differences if one.verdict in {"higher", "lower"}]
        one = max(shown or self.differences, key=lambda one: abs(one.result.difference.mean))
        key, found, p = one.key, one.result.difference, one.result.p_corrected
        mean, low, high = (points(number, signed=True) for number in (found.mean, found.low, found.high))
        interval = f" ({low} to {high})" if found.has_interval else ""
        evaluated_on = self.set_titles.get(key.evaluation_set, key.evaluation_set)
        tested = "" if math.isnan(p) else f", p (Holm) {'< 0.001' if p < 0.001 else f'{p:.3f}'}"
        return (
            f"The largest{' that is shown' if shown else ''}: {key.against} less {key.baseline}, {key.metric.upper()} "
            f"of {key.structure} ({evaluated_on}), {mean} points{interval}, n = "
            f"{found.num_clusters}{tested}."
        )

    @property
    def _unpaired(self) -> str:
        """What is left out, where anything is."""
        unpaired = [one.num_unpaired for one in self.differences]
        if not any(unpaired):
            return ""
        return f" Left out: cases that only one of both has a score of, {span(unpaired)} in each difference."

    @property
    def modelled(self) -> "tuple[tuple[Difference, MixedModel], ...]":
        """The differences that a mixed model was made of, with it."""
        return tuple((one, one.mixed) for one in self.differences if one.mixed is not None)

    @property
    def sentence_of_models(self) -> str:
        """What becomes of the answer when trainings count as drawn, too; empty without a model."""
        there = [(one, model) for one, model in self.modelled if not model.problem]
        without = len(self.modelled) - len(there)
        none = f"; {without} have no such model, with its reason in the table" if without else ""
        if not there:
            return f"No mixed model over trainings{none}." if without else ""
        numbers = [model.num_trainings for _, model in there]
        trainings = span(numbers)
        holding = {one.key for one, model in there if model.low <= 0 <= model.high}
        shown = [one for one, _ in there if one.verdict in {"higher", "lower"}]
        doubtful = sum(one.key in holding for one in shown)
        among = f", among them {doubtful} of the {len(shown)} that are shown" if shown else ""
        return (
            f"With trainings drawn as patients are (mixed model, n = {trainings} pairs of trainings), {len(holding)} "
            f"of {len(there)} differences have 0 in their 95 % interval{among}{none}."
        )


def _num_differing(found: PairedComparison) -> int:
    """Return of how many patients the signs decide how small p can be: 2 / 2^n, if all are the same.

    Those without a difference have none. With more patients than the test is exact for with such ones, where the normal
    approximation gives other values, all count: then p may be called possible that is not, and never the other way.
    """
    differing = found.num_better + found.num_worse
    return differing if differing + found.num_equal <= _MOST_EXACT else differing + found.num_equal


def _sentence_of_looks(verdicts: Sequence[str], *, patients: str) -> str:
    return (
        f"Of {len(verdicts)} differences (structure, evaluation set, DSC or NSD), {verdicts.count('higher')} are shown "
        f"to be higher, {verdicts.count('lower')} lower; {verdicts.count(UNDECIDED)} are undecided. n = {patients} "
        "patients, group sequential signed rank test by flipped signs, an error of at most "
        f"{ALPHA} over all looks and all tests of the study (Holm), and a 95 % interval without 0 at the look."
    )


def answer(spec: ComparisonSpec, rows: "pd.DataFrame", *, trainings: Sequence[Training]) -> Answer:
    """Return the answer to a question of a study.

    Groups are compared whose facets fit and that the question wants to be equal in others. A case is paired with itself
    in the same evaluation set and, where both have as many, in the same fold.

    Parameters
    ----------
    spec
        The question.
    rows
        Of `scores_frame`.
    trainings
        Those of the run.
    """
    differences = [
        difference
        for baseline, against in compared_groups(spec, trainings)
        for difference in _differences(
            spec,
            rows,
            pair=(baseline.group, against.group),
            by=paired_by(baseline, against),
            by_training=paired_by(baseline, against, with_seeds=True),
        )
    ]
    return _corrected(spec, differences)


def answer_for_submissions(methods: Sequence[str], rows: "pd.DataFrame", *, groups: Sequence[str]) -> Answer:
    """Return whether submissions are better than what was trained: a case with itself, its folds averaged.

    All of them are one question, so that the correction is over all tests. `rows` are those of `scores_frame` and of
    the submissions, `groups` the trained ones.
    """
    who = methods[0] if len(methods) == 1 else "Submissions"
    spec = ComparisonSpec(name="submitted", title=f"{who} against the trainings", baseline={}, against={})
    differences = [
        difference
        for method in methods
        for group in groups
        for difference in _differences(spec, rows, pair=(group, method), by=(), by_training=())
    ]
    return _corrected(spec, differences)


def _corrected(spec: ComparisonSpec, differences: Sequence[Difference]) -> Answer:
    results = corrected_by_holm([one.result for one in differences])
    whole = zip(differences, results, strict=True)
    return Answer(spec=spec, differences=tuple(replace(one, result=result) for one, result in whole))


def _differences(
    spec: ComparisonSpec,
    rows: "pd.DataFrame",
    *,
    pair: tuple[str, str],
    by: tuple[str, ...],
    by_training: tuple[str, ...],
) -> list[Difference]:
    baseline, against = pair
    joined = paired_scores(rows, baseline=baseline, against=against, by=by)
    each = joined if by_training == by else paired_scores(rows, baseline=baseline, against=against, by=by_training)
    of_trainings = dict(iter(each.groupby(["evaluation_set", "structure"]))) if by_training else {}
    found = []
    for (evaluation_set, structure), part in joined.groupby(["evaluation_set", "structure"], sort=False):
        for metric in METRICS:
            if not spec.asks(str(evaluation_set), str(structure), metric):
                continue
            one, other = part[f"{metric}_baseline"], part[f"{metric}_against"]
            both = one.notna() & other.notna()
            if not both.any():
                continue
            result = compare_paired((other - one)[both].tolist(), part["patient"][both].tolist())
            result = replace(result, difference=cut_difference(result.difference))
            found.append(
                Difference(
                    key=DifferenceKey(
                        baseline=baseline,
                        against=against,
                        evaluation_set=str(evaluation_set),
                        structure=str(structure),
                        metric=metric,
                    ),
                    baseline_mean=float(one[both].mean()),
                    against_mean=float(other[both].mean()),
                    num_unpaired=int((one.notna() ^ other.notna()).sum()),
                    result=result,
                    mixed=_model(of_trainings.get((evaluation_set, structure)), metric=metric, by=by_training),
                )
            )
    return found


def _model(part: "pd.DataFrame | None", *, metric: str, by: tuple[str, ...]) -> MixedModel | None:
    """Return the model of the differences of pairs of trainings; None if there are too few, or one of each patient."""
    if part is None:
        return None
    scored = part.assign(difference=part[f"{metric}_against"] - part[f"{metric}_baseline"])
    scored = scored[scored["difference"].notna()]
    crossed = Crossed(
        differences=scored["difference"].tolist(),
        patients=scored["patient"].tolist(),
        folds=scored["fold"].tolist(),
        trainings=list(zip(*(scored[name] for name in by), strict=True)),
    )
    return cut_difference(mixed_model(crossed)) if crossed.can_be_modelled else None


def paired_by(baseline: Training, against: Training, *, with_seeds: bool = False) -> tuple[str, ...]:
    """Return what two groups are paired by beside the case: the fold, where both have as many.

    Scores of several seeds are averaged, or, `with_seeds` and where both have the same, paired as well: in which order
    does not matter, since seeds of two methods have nothing to do with each other.
    """
    if baseline.num_folds != against.num_folds:
        return ()
    has_seeds = with_seeds and baseline.seed is not None and baseline.model.seeds == against.model.seeds
    return ("fold", TRAINING_SEED) if has_seeds else ("fold",)


def paired_scores(rows: "pd.DataFrame", *, baseline: str, against: str, by: Sequence[str]) -> "pd.DataFrame":
    """Return the scores of two groups side by side, `dsc_baseline` and so on, NaN where only one of them has a case.

    A row is an evaluation set, structure and case, and what `paired_by` names; the scores of several trainings of one
    case are averaged. Two empty masks count as 1 in a case that any training of either group has a score of, as in
    ranks: else who predicts what is not there would be compared on all cases but those. Without any such score there
    is nothing to compare, and they have none.
    """
    keys = [*_CASE, "patient", *by]
    own = rows.loc[rows["group"].isin([baseline, against]), ["group", "status", *keys, *METRICS]]
    scores = own[list(METRICS)]
    is_scored = scores.notna().groupby([own[key] for key in _CASE]).transform("any").to_numpy(bool)
    is_nothing = (own["status"] == ScoreStatus.BOTH_EMPTY).to_numpy(bool)
    counted = own.assign(**scores.mask(is_scored & is_nothing[:, None], 1.0)).drop(columns=["status"])
    of_baseline, of_against = (
        counted[counted["group"] == group].drop(columns=["group"]).groupby(keys, sort=False).mean()
        for group in (baseline, against)
    )
    return of_baseline.add_suffix("_baseline").join(of_against.add_suffix("_against"), how="outer").reset_index()
