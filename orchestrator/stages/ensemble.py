"""The stages that settle of which models an ensemble is: all that the study names, or the best by validation cases.

Choices see nothing but the validation cases that all candidates have in common. As in the ranks of a report, a case
that a candidate cannot predict counts as 0 for it, so that none gains by failing on hard cases; where none can, it
tells nothing of any, and is left out.
"""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from orchestrator.benchmark.definition import PAIR, VALIDATION, Case, Training
from orchestrator.benchmark.trainings.ensembles import common_validation
from orchestrator.errors import DataError, IntegrityError
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.stages.cases import fetch_images
from orchestrator.stages.context import RunContext
from orchestrator.stages.predict import loaded_model
from orchestrator.stages.records.ensembles import (
    Candidate,
    Comparison,
    EnsembleRecord,
    checkpoints_sha256,
    declaration_sha256,
    is_score,
    read_comparison,
    sha256_of,
    write_ensemble_record,
)
from orchestrator.storage import run_paths
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.interface import Storage
from orchestrator.storage.json_files import read_json, write_json

Scores = list[list[float | None]]
"""Of one case: of each candidate, of each structure; None where there is neither of both masks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _ComparedCase:
    """What a choice knows of a case."""

    scores: Scores
    failures: Mapping[str, str]
    """Why groups cannot predict it."""


def validate(context: RunContext, ensemble: Training) -> None:
    """Compare all models of an ensemble and all pairs of them on their validation cases, as nnU-Net does.

    All models go over a case together, and what each pair makes of it is counted slice by slice. Cases that are done
    are kept as long as the models are the same. If no model can predict any case, the stage fails with a reason.
    """
    candidates = [*((group,) for group in ensemble.candidates), *combinations(ensemble.candidates, 2)]
    found: dict[Case, _ComparedCase] = {}
    errors: dict[Case, DataError] = {}
    for fold in zip(*ensemble.candidates.values(), strict=True):
        for case, compared in _compared_cases(context, ensemble, fold=fold, candidates=candidates):
            if isinstance(compared, DataError):
                errors[case] = compared
            else:
                found[case] = compared
    if not found:
        raise next(iter(errors.values()))
    scored = [
        Candidate(groups=candidate, score=_mean_of_structures([one.scores[number] for one in found.values()]))
        for number, candidate in enumerate(candidates)
    ]
    failed = {(group, case) for case, one in found.items() for group in one.failures}
    failed |= {(group, case) for case in errors for group in ensemble.candidates}
    members = [member.id for member in ensemble.members]
    record = {
        "declaration_sha256": declaration_sha256(ensemble),
        "members": members,
        "checkpoint_sha256": checkpoints_sha256(context.storage, members),
        "num_cases": len(found),
        "candidates": [one.record(by=ensemble.chosen_by) for one in scored],
        "not_predicted": _by_group(failed),
    }
    write_json(context.storage, run_paths.validation_record(ensemble.id), record)


def _by_group(failed: Collection[tuple[str, Case]]) -> dict[str, list[str]]:
    """Return the ids of cases by the group that cannot predict them."""
    return {group: [case.id for name, case in sorted(failed) if name == group] for group, _ in sorted(failed)}


def _compared_cases(
    context: RunContext, ensemble: Training, *, fold: Sequence[Training], candidates: Sequence[tuple[str, ...]]
) -> Iterator[tuple[Case, _ComparedCase | DataError]]:
    """Yield what is known of each validation case of one fold, or why no model can predict it."""
    from orchestrator.training.nnunet.ensembles.compared_prediction import ComparedModels

    storage, of_models = context.storage, checkpoints_sha256(context.storage, [member.id for member in fold])
    label_set, by = context.label_sets[ensemble.label_set], ensemble.chosen_by
    place = {member.group: number for number, member in enumerate(fold)}
    models: ComparedModels | None = None
    for case in common_validation(fold):
        key = run_paths.validation(ensemble.id, case)
        if kept := _kept(storage, key, by=by, of_models=of_models, num_candidates=len(candidates)):
            yield case, kept
            continue
        models = models or ComparedModels(
            [loaded_model(context, member).predictor for member in fold],
            combinations=[[place[group] for group in candidate] for candidate in candidates],
            structures=label_set.structures,
            ignored_label=label_set.ignored_label,
        )
        try:
            with keeping_copies():
                reference = storage.fetch(run_paths.case_labels(case, label_set=label_set.name))
                compared = models.compare(fetch_images(context, case), reference, by=by)
        except DataError as error:
            yield case, error
            continue
        except Exception as error:
            error.add_note(f"while {case.id} was predicted")
            raise
        scores = [[None if math.isnan(value) else value for value in row] for row in compared.scores.tolist()]
        failures = {fold[number].group: str(error) for number, error in compared.failures.items()}
        write_json(storage, key, {"models": of_models, by: scores, "failures": failures})
        yield case, _ComparedCase(scores=scores, failures=failures)


def _kept(storage: Storage, key: str, *, by: str, of_models: str, num_candidates: int) -> _ComparedCase | None:
    """Return what is known of a case if it is of these models."""
    if not storage.exists(key):
        return None
    try:
        record = read_json(storage, key, {"models": str, by: list})
    except IntegrityError:
        return None
    rows: Scores = record[by]
    failures = record.get("failures", {})
    is_same = record["models"] == of_models and len(rows) == num_candidates and isinstance(failures, dict)
    if not (is_same and all(isinstance(row, list) and all(map(is_score, row)) for row in rows)):
        return None
    return _ComparedCase(scores=rows, failures=failures)


def settle(context: RunContext, ensemble: Training) -> None:
    """Write down of which models an ensemble is; what another choice has predicted and scored is removed."""
    storage = context.storage
    compared, chosen = _choice(storage, ensemble)
    members = [member for member in ensemble.members if member.group in chosen]
    records = [
        read_json(
            storage,
            run_paths.training_record(member.id),
            {"checkpoint_sha256": str, "plan_sha256": str, "elapsed_s": (int, float)},
        )
        for member in members
    ]
    record = EnsembleRecord(
        members=tuple(member.id for member in members),
        declaration_sha256=declaration_sha256(ensemble),
        checkpoint_sha256=sha256_of([one["checkpoint_sha256"] for one in records]),
        plan_sha256=sha256_of([one["plan_sha256"] for one in records]),
        elapsed_s=sum(one["elapsed_s"] for one in records),
        environments=tuple(environment for one in records for environment in one.get("environments", ())),
        candidates=tuple(one.record(by=ensemble.chosen_by) for one in compared.candidates),
        not_predicted=compared.not_predicted,
    )
    _remove_others(storage, ensemble, checkpoint_sha256=record.checkpoint_sha256)
    write_ensemble_record(storage, ensemble.id, record)


def _remove_others(storage: Storage, ensemble: Training, *, checkpoint_sha256: str) -> None:
    """Remove predictions and scores of other models; a call that is killed amid it goes on so."""
    key = run_paths.prediction_record(ensemble.id)
    try:
        before = read_json(storage, key).get("checkpoint_sha256") if storage.exists(key) else None
    except IntegrityError:
        before = None
    if before != checkpoint_sha256:
        storage.delete(run_paths.results(ensemble.id))
        storage.delete(key)


def _choice(storage: Storage, ensemble: Training) -> tuple[Comparison, set[str]]:
    """Return what the members were chosen of, if they were, and the groups of those that were."""
    groups = tuple(ensemble.candidates)
    if ensemble.choose is None:
        return Comparison(candidates=(), not_predicted={}), set(groups)
    if ensemble.choose == PAIR:
        key = run_paths.validation_record(ensemble.id)
        found = read_comparison(storage, key, groups=groups, by=ensemble.chosen_by)
        return found, set(_ranked(found.candidates)[0].groups)
    found = _compared_by_rows(storage, ensemble)
    return found, {one.groups[0] for one in _ranked(found.candidates)[: ensemble.choose]}


def _ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates, the best first; of equal ones the first, which has fewer models, as nnU-Net takes it."""
    return sorted(candidates, key=lambda one: -math.inf if one.score is None else one.score, reverse=True)


def _compared_by_rows(storage: Storage, ensemble: Training) -> Comparison:
    """Compare the groups of members by what is committed of their validation cases."""
    groups = {member.id: member.group for member in ensemble.members}
    cases = {
        member.id: set(common_validation(fold))
        for fold in zip(*ensemble.candidates.values(), strict=True)
        for member in fold
    }
    found: dict[str, dict[tuple[Case, str], float | None]] = {group: {} for group in ensemble.candidates}
    failed: set[tuple[str, Case]] = set()
    columns = ["training_id", "evaluation_set", "dataset", "case", "structure", "status", ensemble.chosen_by]
    for row in ResultsStore(storage).read().select(columns).to_pylist():
        case = Case(dataset=row["dataset"], name=row["case"])
        if row["evaluation_set"] == VALIDATION and case in cases.get(row["training_id"], ()):
            group, status = groups[row["training_id"]], row["status"]
            known = {ScoreStatus.BOTH_EMPTY: None, ScoreStatus.MISSING: 0.0}
            found[group][case, row["structure"]] = known.get(status, row[ensemble.chosen_by])
            if status == ScoreStatus.MISSING:
                failed.add((group, case))
    by_none = {case for _, case in failed if all((group, case) in failed for group in found)}
    candidates = [
        Candidate(
            groups=(group,), score=_mean_by_structure({at: one for at, one in scores.items() if at[0] not in by_none})
        )
        for group, scores in found.items()
    ]
    return Comparison(candidates=tuple(candidates), not_predicted=_by_group(failed))


def _mean_by_structure(scores: Mapping[tuple[Case, str], float | None]) -> float | None:
    structures = list(dict.fromkeys(structure for _, structure in scores))
    return _mean(_mean(one for (_, name), one in scores.items() if name == structure) for structure in structures)


def _mean_of_structures(cases: Sequence[Sequence[float | None]]) -> float | None:
    return _mean(map(_mean, zip(*cases, strict=True)))


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None
