"""Scores as a whole study would have them, without a training: skewed towards 1, some masks empty, some missing."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from orchestrator.benchmark.definition import Case, EvaluationSet, Training
from orchestrator.benchmark.study import Study, split_sha256
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus

_SPACING_MM = (2.0, 0.8, 0.8)
_VERSIONS = '{"nnunetv2": "2.8.1", "torch": "2.13.0", "device": "none, these scores are drawn"}'


def drawn_rows(training: Training, *, study: Study, seed: int = 0, share_more: float = 0.0) -> list[ResultRow]:
    """Return rows for every evaluation case of a training; equal seeds give equal rows.

    With `share_more` evaluation sets have this share of further cases, as those of a larger study would.
    """
    random = np.random.default_rng([seed, *training.id.encode()])
    skill = 0.03 * random.standard_normal()
    provenance = Provenance(
        preset="paper",
        seed=seed,
        versions=_VERSIONS,
        data_sha256="0" * 64,
        split_sha256=split_sha256(training),
        plan_sha256="1" * 64,
        checkpoint_sha256="2" * 64,
        phantoms=True,
        is_capped=training.is_capped,
        train_elapsed_s=float(random.uniform(8, 12) * 3600),
    )
    return [
        ResultRow(
            training_id=training.id,
            group=training.group,
            fold=training.fold,
            configuration=training.model.configuration,
            facets=training.facets,
            evaluation_set=evaluation.name,
            dataset=case.dataset,
            case=case.name,
            score=_drawn(structure, study.label_set(evaluation.label_set).structure(structure).tolerance_mm,
                         skill=skill, random=random),
            provenance=provenance,
        )
        for evaluation in training.evaluation_sets
        for case in _cases(evaluation, share_more=share_more)
        for structure in evaluation.structures
    ]  # fmt: skip


def all_drawn_rows(
    trainings: Sequence[Training], *, study: Study, seed: int = 0, least_rows: int = 0
) -> dict[str, list[ResultRow]]:
    """Return such rows by training; with further cases if there would be fewer rows than so many."""
    num = sum(len(one.cases) * len(one.structures) for training in trainings for one in training.evaluation_sets)
    more = max(0.0, least_rows / num - 1) if num else 0.0
    return {training.id: drawn_rows(training, study=study, seed=seed, share_more=more) for training in trainings}


def _cases(evaluation: EvaluationSet, *, share_more: float) -> list[Case]:
    own = evaluation.cases
    numbers = range(math.ceil(share_more * len(own)))
    return [*own, *(replace(own[one % len(own)], name=f"{own[one % len(own)].name}-further-{one}") for one in numbers)]


def _drawn(structure: str, tolerance_mm: float, *, skill: float, random: np.random.Generator) -> CaseScore:
    kinds = list(ScoreStatus)
    status = kinds[random.choice(len(kinds), p=[0.96, 0.01, 0.01, 0.01, 0.01])]
    num_voxels = int(random.lognormal(9, 1.5)) + 1
    dsc = float(np.clip(random.beta(12, 2) + skill, 0.01, 1.0))
    nsd = float(np.clip(random.beta(14, 2) + skill, 0.01, 1.0))
    is_scored = status is ScoreStatus.SCORED
    is_nothing = status in {ScoreStatus.BOTH_EMPTY, ScoreStatus.MISSING}
    empty = math.nan if is_nothing else 0.0
    distance = math.nan if is_nothing else math.inf
    return CaseScore(
        structure=structure,
        status=status,
        dsc=dsc if is_scored else empty,
        nsd=nsd if is_scored else empty,
        hd95_mm=float(random.exponential(20 * (1 - nsd) + 1)) if is_scored else distance,
        assd_mm=float(random.exponential(4 * (1 - nsd) + 0.2)) if is_scored else distance,
        tolerance_mm=tolerance_mm,
        spacing_mm=_SPACING_MM,
        num_reference_voxels=0 if status in {ScoreStatus.BOTH_EMPTY, ScoreStatus.REFERENCE_EMPTY} else num_voxels,
        num_predicted_voxels=int(num_voxels * random.uniform(0.7, 1.3)) if is_scored else 0,
        message="drawn as missing" if status is ScoreStatus.MISSING else "",
    )
