"""The tables of a page that readers of Markdown and LaTeX see as well: columns and cells of each, said once."""

from collections.abc import Iterator
from dataclasses import replace
from math import isnan

from orchestrator.report.answers import Answer, Difference
from orchestrator.report.looks.decisions import Decisions
from orchestrator.report.overview import OverviewRow, Quartiles
from orchestrator.report.page import Page
from orchestrator.report.parts import Gaps, Parts
from orchestrator.report.ranks import Ranked
from orchestrator.report.search import SearchSection
from orchestrator.report.texts.numbers import (
    as_percent,
    basis,
    counts,
    hours_text,
    left_out,
    measure,
    modelled,
    p_value,
    quartiles,
    rank_range,
    sample,
    spread,
    with_interval,
    with_sign,
)
from orchestrator.report.texts.table import Cell, Column, PageTable
from orchestrator.statistics.intervals import FEWEST_CLUSTERS, MeanWithInterval
from orchestrator.statistics.mixed import MixedModel
from orchestrator.usage import Usage
from orchestrator.workflow.looks import DifferenceKey

_KEY = ("first", "second", "evaluated on", "structure", "metric")
"""Columns of what is compared."""


def tables_of(page: Page) -> Iterator[PageTable]:
    """Yield the tables of a page; each label is there once."""
    if page.rows:
        yield scores(page)
    for one in page.answers:
        yield from [differences(one, page)] if one.differences else []
        yield from [models(one, page)] if one.modelled else []
    yield from [looks(page.decisions, page)] if page.decisions and page.decisions.tests else []
    yield from _numbered(ranks(one, page) for one in page.rankings)
    yield from [published(page)] if page.published else []
    yield from _numbered(gaps(one, page) for one in page.gaps)
    yield from _numbered(parts(one, page) for one in page.parts)
    if page.usage:
        yield hours_of_stages(page.usage)
        yield from [hours_of_machines(page.usage)] if page.usage.machines else []
    if page.search:
        yield from [generations(page.search)] if page.search.generations else []
        yield from [settings(page.search)] if page.search.importances else []


def _numbered(tables: Iterator[PageTable]) -> Iterator[PageTable]:
    return (replace(one, label=f"{one.label}-{number}") for number, one in enumerate(tables, start=1))


def scores(page: Page) -> PageTable:
    """Return the table of all scores."""
    return PageTable.of(
        "Scores", label="scores", notes=page.notes,
        columns=[
            _name(page.what), "evaluated on", "structure", _number("cases"), _number(f"{page.unit}s scored"),
            "DSC (%)", "NSD (%)", "HD95 (mm)", "ASSD (mm)", Column("volume error (%)", on_screens_only=True),
            *(one.title for one in page.further), "left out",
        ],
        rows=[
            [row.group, page.set_title(row.evaluation_set), row.structure, row.num_cases, row.dsc.num_clusters,
             _mean(row, row.dsc, page), _mean(row, row.nsd, page, tolerance_mm=row.tolerance_mm),
             *(_median(quartiles(value), value) for value in (row.hd95_mm, row.assd_mm)),
             _median(quartiles(row.volume_error, 100), row.volume_error),
             *(_median(measure(value), value) for value in (row.further[one.field] for one in page.further)),
             left_out(row)]
            for row in page.rows
        ],
        caption=f"Mean DSC and NSD with 95 % intervals (studentised bootstrap over {page.unit}s); of all else medians "
        "with quartiles, of cases in which neither mask is empty (n: where there are others). Left out: cases in none "
        f"of these means, and those without distances, since one mask is empty (DSC and NSD 0).{page.counted}",
    )  # fmt: skip


def differences(found: Answer, page: Page) -> PageTable:
    """Return the table of the tests of a question."""
    return PageTable.of(
        found.spec.title, label=f"comparison-{found.spec.name}", notes=page.notes,
        columns=[
            *_KEY, "a difference is", "difference (points)", _number("p (Holm)"), _number("patients"),
            _number("first (%)"), _number("second (%)"), Column("better / equal / worse", on_screens_only=True),
            _number("effect"), Column("p", is_number=True, on_screens_only=True),
        ],
        rows=[
            [*_key(one.key, page), one.verdict,
             Cell(_signed(one), hint=f"{one.num_unpaired} cases of only one of both left out"),
             p_value(one.result.p_corrected), one.result.difference.num_clusters,
             as_percent(one.baseline_mean), as_percent(one.against_mean),
             f"{one.result.num_better} / {one.result.num_equal} / {one.result.num_worse}",
             with_sign(one.result.effect), p_value(one.result.p)]
            for one in found.differences
        ],
        caption="A difference is second minus first over the cases that both have a score of, two empty masks as 1 "
        "where either predicts something: the difference of their means, in which a case counts as often as it is "
        "compared. Its 95 % interval is over patients; p is of Wilcoxon's signed rank test of the mean difference of "
        f"each patient, corrected by Holm over {found.num_tests} tests. The effect is the matched-pairs rank-biserial "
        "correlation (-1 to 1).",
    )  # fmt: skip


def models(found: Answer, page: Page) -> PageTable:
    """Return the table of differences over trainings as well."""
    return PageTable.of(
        f"Mixed models: {found.spec.title}", label=f"trainings-{found.spec.name}", notes=page.notes,
        columns=[
            *_KEY, Column("over patients (points)", on_screens_only=True), "with trainings (points)",
            Column("df", is_number=True, on_screens_only=True),
            *(_number(f"SD of {part}") for part in ("patients", "folds", "trainings", "the rest")),
            _number("patients"), _number("pairs of trainings"),
            Column("differences", is_number=True, on_screens_only=True),
        ],
        rows=[
            [*_key(one.key, page), _signed(one), *_of_model(model),
             model.num_patients, model.num_trainings, model.num_differences]
            for one, model in found.modelled
        ],
        caption="Differences (second less first, in points) with 95 % intervals over patients and pairs of trainings, "
        "and the SD of each part, by a linear mixed model of patients, folds and seeds (restricted likelihood, "
        "Satterthwaite's degrees of freedom); a fold's stands where it can be told from the seed's. These intervals "
        "are not corrected for how many there are.",
    )  # fmt: skip


def _of_model(model: MixedModel) -> list[str | Cell]:
    if model.problem:
        return [Cell(f"no number: {model.problem}", is_sentence=True), *("-" * 5)]
    parts = (model.patient_sd, model.fold_sd, model.training_sd, model.residual_sd)
    return [modelled(model), f"{model.freedom:.1f}", *map(spread, parts)]


def looks(decisions: Decisions, page: Page) -> PageTable:
    """Return the table of the tests that looks decide."""
    return PageTable.of(
        "What was decided, and when", label="looks", notes=page.notes,
        columns=[
            *_KEY, "a difference is", _number("look"), _number("trainings"), _number("patients"),
            "as extreme", _number("allowed"), _number("chance with all"),
        ],
        rows=[
            [*_key(one.key, page), one.verdict, one.look, one.num_trainings, one.num_patients,
             f"{found.num_as_extreme} of {found.num_flips} (look {found.look})" if (found := one.crossing) else "",
             found.num_allowed if found else "", "" if found else f"{100 * one.chance:.0f} %"]
            for one in decisions.tests
        ],
        caption="Looks in an order that was fixed before the first training; an error of at most 5 % over all looks "
        f"and all {len(decisions.tests)} tests. Undecided is no proof of equality.",
    )  # fmt: skip


def ranks(found: Ranked, page: Page) -> PageTable:
    """Return the table of a ranking."""
    places: dict[str, list[str]] = {}
    for one in found.board.places:
        places.setdefault(one.method, []).append(f"{one.structure} {one.metric.upper()}: {one.rank_of_mean}")
    return PageTable.of(
        f"Ranks, {found.title}", label="ranks", notes=page.notes,
        columns=[
            _number("rank"), "95 % of resamples", _name(page.what), _number("mean rank"),
            _number("mean rank by case"), "first in", _number("missing"),
        ],
        rows=[
            [one.rank, rank_range(one), one.method,
             Cell(f"{one.mean_rank:.2f}", hint=", ".join(places.get(one.method, ()))),
             f"{one.mean_rank_by_case:.2f}", f"{one.num_first} of {found.board.num_lists}", one.num_missing]
            for one in found.board.standings
        ],
        caption="Rank (1 is the best) of the mean rank over structures and metrics, and between which ranks it lies in "
        f"95 % of resamples of {found.board.num_cases} {page.unit}s.",
    )  # fmt: skip


def published(page: Page) -> PageTable:
    """Return the table of our scores beside the published ones."""
    return PageTable.of(
        "Beside the published values", label="published", notes=(*page.notes, *page.errata),
        columns=[
            _name("trainings"), "evaluated on", "structure", "metric", "ours (%)", "published (%)",
            "difference (points)", "within",
        ],
        rows=[
            [one.group, page.set_title(one.evaluation_set), one.structure, one.metric.upper(),
             Cell(with_interval(one.ours), hint=sample(one.ours, page.unit)),
             f"{as_percent(one.mean)} ± {as_percent(one.std)}{' †' if one.erratum else ''}",
             with_interval(one.difference, signed=True), one.within]
            for one in page.published
        ],
        caption="Ours with its 95 % interval; published mean ± SD over cases (†: a known error touches it). The "
        "interval of the difference is that of ours: of the published mean no case is known, so it counts as a number "
        "without an error. Within: whether our mean lies within one published SD of the published mean; this is a "
        "spread over cases, and no test.",
    )  # fmt: skip


def gaps(found: Gaps, page: Page) -> PageTable:
    """Return the table of differences between two evaluation sets."""
    sides = [page.set_title(name) for name in (found.baseline, found.against)]
    return PageTable.of(
        found.title, label="gap", notes=page.notes,
        columns=[
            _name("trainings"), "structure", "metric", *(_number(f"{side} (%)") for side in sides),
            "difference (points)", "patients",
        ],
        rows=[
            [one.group, one.structure, one.metric.upper(), as_percent(one.baseline_mean), as_percent(one.against_mean),
             Cell(with_interval(one.difference, signed=True),
                  hint=f"n = {one.difference.num_cases} cases of both sets together"),
             f"{one.num_baseline} and {one.num_against}"]
            for one in found.gaps
        ],
        caption=f"{sides[1]} less {sides[0]}. These are different patients: the difference of the means has a 95 % "
        f"interval for which the patients of either set are drawn by themselves (from {FEWEST_CLUSTERS} patients of "
        "each on), and no test. Scanners, patients and annotators differ at once, so it is not the effect of one of "
        "these.",
    )  # fmt: skip


def parts(found: Parts, page: Page) -> PageTable:
    """Return the table of the scores of parts of the cases."""
    return PageTable.of(
        found.title, label="cases", notes=page.notes,
        columns=[
            _name("trainings"), "evaluated on", "structure", "of cases", _number("cases"),
            _number(f"{page.unit}s scored"), "DSC (%)", "NSD (%)", "left out",
        ],
        rows=[
            [row.group, page.set_title(row.evaluation_set), row.structure, one.name, row.num_cases,
             row.dsc.num_clusters, _mean(row, row.dsc, page), _mean(row, row.nsd, page),
             left_out(row, of_distances=False)]
            for one, row in ((one, one.row) for one in found.parts)
        ],
        caption="Mean DSC and NSD with 95 % intervals. Left out: cases in none of these means.",
    )  # fmt: skip


def hours_of_stages(usage: Usage) -> PageTable:
    """Return the table of the hours of each kind of stage; with those of GPUs where one was used."""
    of_gpus = slice(None) if usage.gpu_hours else slice(0)
    return PageTable.of(
        "Hours of stages", label="hours",
        columns=[_name("stage"), _number("attempts"), _number("hours"), *[_number("GPU hours")][of_gpus]],
        rows=[
            [one.kind, one.num_attempts, hours_text(one.hours), *[hours_text(one.gpu_hours)][of_gpus]]
            for one in usage.stages
        ],
        caption=f"Attempts at each kind of stage and their hours, added up; {hours_text(usage.elapsed_hours)} hours in "
        "all calls of the run together, without the time between them.",
    )  # fmt: skip


def hours_of_machines(usage: Usage) -> PageTable:
    """Return the table of how busy machines of each size were."""
    return PageTable.of(
        "Machines", label="machines",
        columns=[_name("machines of"), *map(_number, ("hours there", "hours at work", "at work (%)"))],
        rows=[
            [one.size, hours_text(one.hours), hours_text(one.busy_hours), as_percent(one.share)]
            for one in usage.machines
        ],
        caption="Added up over all machines of a size; a machine is at work while anything runs on it.",
    )  # fmt: skip


def settings(search: SearchSection) -> PageTable:
    """Return the table of what each setting explains."""
    none = ("too few trials", "-")
    return PageTable.of(
        "Which settings mattered", label="settings",
        columns=[_name("setting"), _number("explains (%)"), _number("by chance")],
        rows=[
            [one.setting, *(none if isnan(one.share) else (f"{100 * one.share:.0f}", p_value(one.p)))]
            for one in search.importances
        ],
        caption=f"What each setting explains by itself of the ranks of {search.num_scored} trials, and how often one "
        "without any influence would explain as much: a hint and no finding. Trials that ended early count with the "
        "score that they had then.",
    )  # fmt: skip


def generations(search: SearchSection) -> PageTable:
    """Return the table of how the members of a population went on."""
    head, *rows = search.generations
    return PageTable.of(
        "Generations", label="generations",
        columns=head,
        rows=rows,
        caption="From where each member went on, with which settings, and its patch Dice at the end of the generation, "
        "by which it was compared with the others.",
    )  # fmt: skip


def _name(title: str) -> Column:
    return Column(title, names_row=True)


def _number(title: str) -> Column:
    return Column(title, is_number=True)


def _key(found: DifferenceKey, page: Page) -> list[str]:
    return [found.baseline, found.against, page.set_title(found.evaluation_set), found.structure, found.metric.upper()]


def _signed(found: Difference) -> str:
    return with_interval(found.result.difference, signed=True)


def _mean(row: OverviewRow, value: MeanWithInterval, page: Page, *, tolerance_mm: float = -1.0) -> Cell:
    tolerance = f"; tolerance {tolerance_mm} mm" if tolerance_mm >= 0 else ""
    return Cell(with_interval(value), hint=f"{basis(row, value, page.unit)}{tolerance}")


def _median(text: str, value: Quartiles) -> Cell:
    return Cell(text, hint=counts(value))
