"""What the words of a report mean: the same on its page, in report.md and in methods.md."""

from collections.abc import Sequence

from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.report.answers import Answer
from orchestrator.statistics.intervals import ALPHA, FEWEST_CLUSTERS

_METRICS = (
    ("DSC", "Dice similarity coefficient, 2 |A ∩ B| / (|A| + |B|), in voxels."),
    (
        "NSD",
        "normalised surface Dice: the share of both surfaces that lies within the tolerance of the other one, by area.",
    ),
    (
        "HD95",
        "95 % Hausdorff distance: the distance within which 95 % of the area of a surface lies from the other one, the "
        "larger of both directions, in mm.",
    ),
    (
        "ASSD",
        "average symmetric surface distance: the mean distance of both surfaces together, weighted by area, in mm.",
    ),
    (
        "volume error",
        "volume of the prediction less that of the reference, as a share of the reference: above 0 where too much is "
        "predicted. There is none where the reference is empty.",
    ),
)
_MISSING = (
    "empty and missing masks",
    "where one of both masks is empty, DSC and NSD are 0, and there is no distance: such a case is in the means and in "
    "no median of distances. A case in which both are empty has no value, nor has one without a usable prediction: "
    "these are left out of means, and counted. In a comparison two empty masks count as 1 in a case in which either "
    "side predicts something, and in ranks always.",
)
_MIXED_MODEL = (
    "mixed model",
    "the differences of each patient in each pair of trainings, as their mean and what patients, folds, trainings and "
    "the rest add at random; restricted likelihood, t with Satterthwaite's degrees of freedom.",
)


def definitions(
    *, unit: str, further: Sequence[FurtherMetric] = (), answers: Sequence[Answer] = (), has_looks: bool = False
) -> tuple[tuple[str, str], ...]:
    """Return words and what each means.

    Parameters
    ----------
    unit
        What is drawn anew.
    further
        Metrics that the study asks for besides.
    answers
        The questions of the study, if it has any.
    has_looks
        Whether the run was to end once they are answered.
    """
    # Of submissions nobody has said whose scan a case is.
    scans = "; 89 to 95 where some patients have more scans than others" if unit == "patient" else ""
    trainings = ", with these very trainings" if unit == "patient" else ""
    others = " How other trainings of the same method would differ is not in it." if trainings else ""
    interval = (
        "95 % interval",
        f"studentised bootstrap over {unit}s, of {FEWEST_CLUSTERS} or more that are not all equal. Over many draws "
        f"of the {unit}s{trainings}, intervals made like this hold the mean in about 95 of 100 (93 to 96 in simulations"
        f"{scans}).{others} "
        f"Where nearly all {unit}s are equal and a few fail or differ they hold it in fewer: in a study none of whose "
        f"{unit}s fails, nothing tells that some do.",
    )
    return (
        *_METRICS,
        *((one.title, "median and quartiles of the cases in which it is a number.") for one in further),
        _MISSING,
        interval,
        *([("p", _test(has_looks=has_looks))] if answers else []),
        *([_MIXED_MODEL] if any(one.modelled for one in answers) else []),
    )


def _test(*, has_looks: bool) -> str:
    looks = " Here the looks decide, and p is not corrected for them." if has_looks else ""
    return (
        "two-sided Wilcoxon signed rank test (Pratt) of the mean difference of each patient. p (Holm) is corrected for "
        f"all tests of a question. “higher” and “lower” stand where p (Holm) is below {ALPHA} and the interval is "
        f"without 0, ranks and mean on the same side; “not shown” is no proof of equality.{looks}"
    )
