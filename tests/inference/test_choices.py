"""Claims about what an ensemble is chosen by where a case has no prediction, or a structure no score."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from test_ensembles import PAPER, load

from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.benchmark.definition import Structure
from orchestrator.errors import DataError, IntegrityError
from orchestrator.inference.ensembles import load_models, model_sources
from orchestrator.inference.options import PredictOptions
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.stages import ensemble as stages
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import read_json, write_json
from orchestrator.training.nnunet.ensembles import compared_prediction
from orchestrator.training.nnunet.ensembles.compared_prediction import ComparedCase, ComparedModels

ENSEMBLES = """
ensembles:
  best: {members: [organs, organs-2d], choose: 1}
  pair: {members: [organs, organs-2d], choose: pair}
"""
MISSING, EMPTY = ScoreStatus.MISSING, ScoreStatus.BOTH_EMPTY
PROVENANCE = Provenance(
    preset="paper",
    seed=1,
    versions="{}",
    data_sha256="",
    split_sha256="",
    plan_sha256="",
    checkpoint_sha256="",
    phantoms=True,
    is_capped=False,
    train_elapsed_s=1.0,
)


def trainings_of(folder: Path):
    return {one.id: one for one in load(folder, ENSEMBLES).trainings(preset=PAPER)}


def row_of(training, case, structure: str, value: float | ScoreStatus) -> ResultRow:
    status = value if isinstance(value, ScoreStatus) else ScoreStatus.SCORED
    score = math.nan if status in {MISSING, EMPTY} else value
    return ResultRow(
        training_id=training.id,
        group=training.group,
        fold=training.fold,
        configuration="3d_fullres",
        facets=training.facets,
        evaluation_set="val",
        dataset=case.dataset,
        case=case.name,
        score=CaseScore(
            structure=structure,
            status=status,
            dsc=score,
            nsd=score,
            tolerance_mm=2.0,
            spacing_mm=(1.0, 1.0, 1.0),
            num_reference_voxels=5,
            num_predicted_voxels=5,
        ),
        provenance=PROVENANCE,
    )


@pytest.mark.parametrize(
    ("liver", "chosen", "means", "not_predicted"),
    [
        # One model fails on a case: that is 0, and not a mean over its easier cases.
        (
            {"organs": (MISSING, 0.9, 0.9), "organs-2d": (0.7, 0.7, 0.7)},
            "organs-2d",
            (0.6, 0.7),
            {"organs": [0]},
        ),
        # No model can predict it: it tells nothing of any.
        (
            {"organs": (MISSING, 0.9, 0.9), "organs-2d": (MISSING, 0.7, 0.7)},
            "organs",
            (0.9, 0.7),
            {"organs": [0], "organs-2d": [0]},
        ),
        # Neither mask has the structure: no score.
        ({"organs": (EMPTY, 0.6, 0.8), "organs-2d": (0.0, 0.9, 0.9)}, "organs", (0.7, 0.6), {}),
    ],
)
def test_a_missing_prediction_counts_as_0_unless_nobody_has_one(tmp_path, liver, chosen, means, not_predicted):
    trainings, storage = trainings_of(tmp_path), open_storage(str(tmp_path / "run"))
    best = trainings["organs-best-fold0"]
    cases = trainings["organs-fold0"].val
    assert len(cases) == 3
    for group, values in liver.items():
        training = trainings[f"{group}-fold0"]
        rows = [row_of(training, case, "liver", value) for case, value in zip(cases, values, strict=True)]
        ResultsStore(storage).commit(training.id, rows)
    compared, groups = stages._choice(storage, best)
    assert groups == {chosen}
    assert [one.score for one in compared.candidates] == pytest.approx(means)
    assert compared.not_predicted == {group: [cases[at].id for at in places] for group, places in not_predicted.items()}


class Compared:
    """Stands for models of which the second fails on one case, and both on another."""

    def __init__(self, *_, combinations, **__):
        assert combinations == [[0], [1], [0, 1]]

    def compare(self, images, reference, *, by):
        assert by == "dsc"
        if images == self.unreadable:
            raise DataError("no image")
        if images == self.hard:
            return ComparedCase(scores=np.array([[0.3], [0.0], [0.0]]), failures={1: DataError("no voxel left")})
        return ComparedCase(scores=np.array([[0.5], [0.7], [0.8]]), failures={})


@pytest.fixture
def validated(tmp_path, monkeypatch):
    """Return the trainings, their storage, and what compares all pairs."""
    trainings, storage = trainings_of(tmp_path), open_storage(str(tmp_path / "run"))
    pair = trainings["organs-pair-fold0"]
    for member in pair.members:
        record = {"checkpoint_sha256": member.id, "plan_sha256": "", "elapsed_s": 1.0}
        write_json(storage, run_paths.training_record(member.id), record)
    Compared.unreadable, Compared.hard = (case.name for case in trainings["organs-fold0"].val[:2])
    for case in trainings["organs-fold0"].val:
        write_json(storage, run_paths.case_labels(case, label_set="organs"), {})
    monkeypatch.setattr(compared_prediction, "ComparedModels", Compared)
    monkeypatch.setattr(stages, "loaded_model", lambda *_: SimpleNamespace(predictor=None))
    monkeypatch.setattr(stages, "fetch_images", lambda _, case: case.name)
    label_sets = {"organs": SimpleNamespace(name="organs", structures=(), ignored_label=None)}
    context = SimpleNamespace(storage=storage, label_sets=label_sets)
    return pair, storage, lambda: stages.validate(context, pair)


def test_a_case_that_cannot_be_predicted_does_not_end_the_comparison_of_pairs(validated):
    pair, storage, validate = validated
    validate()
    unreadable, hard, _ = (case.id for case in pair.members[0].val)
    for _ in range(2):
        record = read_json(storage, run_paths.validation_record(pair.id))
        assert record["num_cases"] == 2
        assert [one["dsc"] for one in record["candidates"]] == pytest.approx([0.4, 0.35, 0.4])
        assert record["not_predicted"] == {"organs": [unreadable], "organs-2d": [unreadable, hard]}
        validate()  # what is kept says the same
    stages.settle(SimpleNamespace(storage=storage), pair)
    settled = read_json(storage, run_paths.ensemble_record(pair.id))
    assert settled["not_predicted"] == record["not_predicted"]
    assert settled["members"] == ["organs-fold0"]
    write_json(storage, run_paths.validation_record(pair.id), record | {"not_predicted": {"organs": "c01"}})
    with pytest.raises(IntegrityError, match=r"not_predicted is .*expected lists of cases by organs, organs-2d"):
        stages.settle(SimpleNamespace(storage=storage), pair)


def test_where_no_case_can_be_predicted_the_reason_is_said(validated, monkeypatch):
    _, _, validate = validated

    def fail(*_, **__):
        raise DataError("no image")

    monkeypatch.setattr(Compared, "compare", fail)
    with pytest.raises(DataError, match="no image"):
        validate()


@pytest.mark.parametrize("by", ["dsc", "nsd"])
def test_a_model_that_cannot_predict_a_case_takes_only_its_own_averages_to_0(tmp_path, by):
    coarse = {"spacing": (500.0, 500.0, 500.0)}
    models = [
        str(write_model(tmp_path / f"{number}", small_plans(**change), labels=labels_of(2)))
        for number, change in enumerate(({}, coarse, {}))
    ]
    files = write_image(tmp_path / "case", shape=(9, 20, 18))
    truth = sitk.GetImageFromArray(np.random.default_rng(0).integers(0, 3, (9, 20, 18), dtype=np.uint8))
    truth.CopyInformation(sitk.ReadImage(str(files[0])))
    sitk.WriteImage(truth, str(tmp_path / "truth.nii.gz"))

    def compared(combinations, used):
        predictors = load_models(model_sources(used), PredictOptions(device="cpu")).ensemble._predictors
        structures = [Structure(name=f"s{label}", label=label, tolerance_mm=2.0) for label in (1, 2)]
        kind = ComparedModels(predictors, combinations=combinations, structures=structures, ignored_label=None)
        return kind.compare(files, tmp_path / "truth.nii.gz", by=by)

    found = compared([(0,), (1,), (2,), (0, 1), (0, 2)], models)
    np.testing.assert_array_equal(
        found.scores[[0, 2, 4]], compared([(0,), (1,), (0, 1)], [models[0], models[2]]).scores
    )
    assert not found.scores[[1, 3]].any()
    assert {number: "no voxel left" in str(error) for number, error in found.failures.items()} == {1: True}
    with pytest.raises(DataError, match="no voxel left"):
        compared([(0,)], [models[1], models[1]])
