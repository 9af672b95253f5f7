"""Tables of a report for a paper: booktabs, each a float of its own."""

from collections.abc import Iterable, Sequence

from orchestrator.report.answers import Answer
from orchestrator.report.page import BesidePublished, Page
from orchestrator.report.parts import Gaps, Parts
from orchestrator.report.ranks import Ranked
from orchestrator.report.texts.escaping import escaped
from orchestrator.report.texts.numbers import (
    as_percent,
    hours_text,
    left_out,
    measure,
    modelled,
    p_value,
    quartiles,
    rank_range,
    spread,
    with_interval,
    with_sign,
)
from orchestrator.usage import Usage
from orchestrator.workflow.looks import DifferenceKey

HEADER = r"""% Tables of a report. In a document: \usepackage[T1]{fontenc} \usepackage{booktabs} \input{tables}
% Names in other scripts than Latin need LuaLaTeX or XeLaTeX.
"""


def latex_tables(page: Page) -> str:
    """Return the tables of a page: scores, comparisons, ranks, what is published, gaps, kinds of cases, hours."""
    tables = [HEADER]
    if page.rows:
        tables.append(_scores(page))
    for one in page.answers:
        tables += [_answer(one, page=page)] if one.differences else []
        tables += [_models(one, page=page)] if one.modelled else []
    tables += [_ranks(one, page=page, place=place) for place, one in enumerate(page.rankings)]
    if page.published:
        tables.append(_published(page.published, page=page))
    tables += [_gaps(one, page=page, place=place) for place, one in enumerate(page.gaps)]
    tables += [_parts(one, page=page, place=place) for place, one in enumerate(page.parts)]
    if page.usage:
        tables.append(_stages(page.usage))
    return "\n".join(tables)


def _scores(page: Page) -> str:
    rows = [
        [row.group, page.set_title(row.evaluation_set), row.structure, str(row.num_cases),
         str(row.dsc.num_clusters), with_interval(row.dsc), with_interval(row.nsd),
         quartiles(row.hd95_mm), quartiles(row.assd_mm),
         *(measure(row.further[one.field]) for one in page.further), left_out(row)]
        for row in page.rows
    ]  # fmt: skip
    further = ", and of further metrics," if page.further else ""
    return _table(
        f"Mean DSC and NSD in per cent with 95 % intervals (studentised bootstrap over {page.unit}s); median HD95 and "
        f"ASSD in mm{further} with quartiles, of cases in which neither mask is empty (n: where there are others). "
        "Left out: cases in none of these means, and those without distances, since one mask is empty (DSC and NSD 0)."
        f"{page.counted}",
        columns=(
            page.what,
            "evaluated on",
            "structure",
            "cases",
            f"{page.unit}s scored",
            "DSC",
            "NSD",
            "HD95",
            "ASSD",
            *(one.title for one in page.further),
            "left out",
        ),
        rows=rows,
        label="scores",
        notes=page.notes,
    )


def _key(found: DifferenceKey, *, page: Page) -> list[str]:
    return [found.baseline, found.against, page.set_title(found.evaluation_set), found.structure, found.metric.upper()]


def _answer(found: Answer, *, page: Page) -> str:
    rows = [
        [*_key(one.key, page=page),
         as_percent(one.baseline_mean), as_percent(one.against_mean), with_interval(one.result.difference, signed=True),
         str(one.result.difference.num_clusters), with_sign(one.result.effect), p_value(one.result.p_corrected)]
        for one in found.differences
    ]  # fmt: skip
    return _table(
        f"{found.spec.title} Means in per cent, of cases that both have a score of, two empty masks as 1 where "
        "either predicts something; difference of these means, in which a case counts as often as it is compared, "
        "second minus first, in points with its 95 % interval; n patients; matched-pairs rank-biserial correlation; p "
        "of Wilcoxon's signed rank test of the mean difference of each patient, corrected by Holm over "
        f"{found.num_tests} tests.",
        columns=("first", "second", "evaluated on", "structure", "metric", "first", "second", "difference", "n",
                 "effect", "p (Holm)"),
        rows=rows,
        label=f"comparison-{found.spec.name}",
        notes=page.notes,
    )  # fmt: skip


def _models(found: Answer, *, page: Page) -> str:
    rows = [
        [*_key(one.key, page=page),
         modelled(model) if not model.problem else f"no number: {model.problem}",
         *map(spread, (model.patient_sd, model.fold_sd, model.training_sd, model.residual_sd)),
         str(model.num_patients), str(model.num_trainings)]
        for one, model in found.modelled
    ]  # fmt: skip
    return _table(
        f"{found.spec.title} Differences (second less first, in points) with 95 % intervals over patients and pairs of "
        "trainings, and the SD of each part, by a linear mixed model (restricted likelihood, Satterthwaite's degrees "
        "of freedom).",
        columns=(
            "first",
            "second",
            "evaluated on",
            "structure",
            "metric",
            "difference",
            "patients",
            "folds",
            "trainings",
            "rest",
            "n patients",
            "n trainings",
        ),
        rows=rows,
        label=f"trainings-{found.spec.name}",
        notes=page.notes,
    )


def _ranks(found: Ranked, *, page: Page, place: int) -> str:
    rows = [
        [str(one.rank), rank_range(one), one.method, f"{one.mean_rank:.2f}",
         f"{one.mean_rank_by_case:.2f}", str(one.num_missing)]
        for one in found.board.standings
    ]  # fmt: skip
    return _table(
        f"{found.title}. Rank of the mean rank over structures and metrics, and its range in 95 % of resamples of "
        f"{found.board.num_cases} {page.unit}s.",
        columns=("rank", "95 %", page.what, "mean rank", "mean rank by case", "missing"),
        rows=rows,
        label=f"ranks-{place + 1}",
        notes=page.notes,
    )


def _published(found: Sequence[BesidePublished], *, page: Page) -> str:
    rows = [
        [one.group, page.set_title(one.evaluation_set), one.structure, one.metric.upper(), with_interval(one.ours),
         f"{as_percent(one.mean)} ± {as_percent(one.std)}{' †' if one.erratum else ''}",
         with_interval(one.difference, signed=True), one.within]
        for one in found
    ]  # fmt: skip
    return _table(
        "Ours (mean with 95 % interval) and published (mean ± SD over cases), in per cent; the difference in points "
        "with the interval of ours, since of the published mean no case is known; whether our mean lies within one "
        "published SD of the published mean. † A known error touches this value.",
        columns=("trainings", "evaluated on", "structure", "metric", "ours", "published", "difference", "within"),
        rows=rows,
        label="published",
        notes=(*page.notes, *page.errata),
    )


def _gaps(found: Gaps, *, page: Page, place: int) -> str:
    rows = [
        [one.group, one.structure, one.metric.upper(), as_percent(one.baseline_mean), as_percent(one.against_mean),
         with_interval(one.difference, signed=True), f"{one.num_baseline} and {one.num_against}"]
        for one in found.gaps
    ]  # fmt: skip
    sides = [page.set_title(name) for name in (found.baseline, found.against)]
    return _table(
        f"{found.title} Means in per cent; the difference ({sides[1]} less {sides[0]}) in points with its 95 % "
        "interval, for which the patients of either set are drawn by themselves; different patients, so no test.",
        columns=("trainings", "structure", "metric", *sides, "difference", "patients"),
        rows=rows,
        label=f"gap-{place + 1}",
        notes=page.notes,
    )


def _parts(found: Parts, *, page: Page, place: int) -> str:
    rows = [
        [one.row.group, page.set_title(one.row.evaluation_set), one.row.structure, one.name, str(one.row.num_cases),
         with_interval(one.row.dsc), with_interval(one.row.nsd)]
        for one in found.parts
    ]  # fmt: skip
    return _table(
        f"{found.title}. Mean DSC and NSD in per cent with 95 % intervals.",
        columns=("trainings", "evaluated on", "structure", "of cases", "cases", "DSC", "NSD"),
        rows=rows,
        label=f"cases-{place + 1}",
        notes=page.notes,
    )


def _stages(found: Usage) -> str:
    rows = [
        [one.kind, str(one.num_attempts), hours_text(one.hours), hours_text(one.gpu_hours) if found.gpu_hours else ""]
        for one in found.stages
    ]
    return _table(
        f"Attempts at each kind of stage and their hours, added up; {hours_text(found.elapsed_hours)} hours in all "
        "calls of the run together, without the time between them.",
        columns=("stage", "attempts", "hours", "GPU hours"),
        rows=rows,
        label="hours",
    )


def _table(
    caption: str, *, columns: Sequence[str], rows: Iterable[Sequence[str]], label: str, notes: Sequence[str] = ()
) -> str:
    lines = [
        r"\begin{table}",
        r"\centering\scriptsize\setlength{\tabcolsep}{3pt}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{label}}}",
        rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
        r"\toprule",
        " & ".join(map(escaped, columns)) + r" \\",
        r"\midrule",
        *(" & ".join(map(escaped, row)) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        *(rf"\par\footnotesize {escaped(note)}" for note in notes),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"
