"""Claims about what a training has predicted: it is of one checkpoint, and what lacks has a reason."""

import errno
import hashlib
import json
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from orchestrator.benchmark.definition import FurtherMetric
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.driver.run import unpredicted_cases
from orchestrator.errors import DataError, IntegrityError, StorageError
from orchestrator.ray_backend.errors import classify
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.scheduling.ended import FailureKind
from orchestrator.scoring import score as scoring
from orchestrator.sources.stamps import SourceStamp
from orchestrator.stages.context import RunContext
from orchestrator.stages.finished import finished_stages, has_predicted
from orchestrator.stages.plan import plan, read_plan
from orchestrator.stages.predict import predict
from orchestrator.stages.records.cases import CaseRecord, read_case_record, write_case_record
from orchestrator.stages.records.predictions import PredictionRecord, read_prediction_record, write_prediction_record
from orchestrator.stages.score import score
from orchestrator.stages.train import train
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet import prediction
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKey, StageKind

(TRAINING,) = load_study().trainings(only=("T1-infection-fold0",), preset=PRESETS["smoke"])
CASES = sorted({case for evaluation in TRAINING.evaluation_sets for case in evaluation.cases})
OLD = {"numpy": "2.2", "device": "cpu"}
NEW = {"numpy": "2.3", "device": "NVIDIA L4"}


class Predictor:
    """Finds nothing anywhere; the errors that it is given come up one after the other instead."""

    def __init__(self):
        self.errors = []
        self.num_predicted = 0

    def prepared(self, images):
        return images

    def labels(self, images):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        self.num_predicted += 1
        return np.zeros((2, 3, 4), np.uint8)


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


@pytest.fixture
def predictor(monkeypatch):
    played = Predictor()
    monkeypatch.setattr(prediction, "load_predictor", lambda *_, **__: played)
    monkeypatch.setattr("orchestrator.stages.predict.read_plan", lambda *_: SimpleNamespace(sha256="plan"))
    return played


@pytest.fixture
def context(storage):
    """A workplace with all cases, in which every second voxel is infected, and a trained model."""
    for case in {*CASES, *TRAINING.cases}:
        for key in (run_paths.case_image(case), run_paths.case_labels(case, label_set="infection")):
            write_map(storage, key)
        source = SourceStamp(files=(), sha256="")
        keys = (run_paths.image_record(case), run_paths.labels_record(case, label_set="infection"))
        for key in keys:
            write_case_record(storage, key, CaseRecord(sha256=f"of {key}", source=source))
    save_model(storage, {"by": "first"})
    return RunContext(
        output=storage.location,
        data=None,
        preset=PRESETS["smoke"],
        seed=0,
        datasets={dataset.name: dataset for dataset in load_study().datasets},
        label_sets={label_set.name: label_set for label_set in load_study().label_sets},
        phantom_cases={},
        device="cpu",
        num_threads=1,
        num_loader_workers=0,
        cloud=None,
    )


def write_map(storage, key):
    with storage.writing(key) as path:
        sitk.WriteImage(sitk.GetImageFromArray(np.indices((2, 3, 4)).sum(0).astype(np.uint8) % 2), str(path))


def save_model(storage, state, *, environments=(OLD,)):
    digest = CheckpointStore(storage, training_id=TRAINING.id).save_final(state)
    record = {"checkpoint_sha256": digest, "plan_sha256": "plan", "elapsed_s": 1.0, "environments": environments}
    write_json(storage, run_paths.training_record(TRAINING.id), record)
    return digest


def retrain(storage):
    storage.delete(run_paths.final_checkpoint(TRAINING.id))
    return save_model(storage, {"by": "second"})


def checkpoints(storage):
    """The checkpoints that the predictions name."""
    keys = [run_paths.prediction(TRAINING.id, case) for case in CASES]
    return {prediction.description_of(storage.fetch(key)) for key in keys if storage.exists(key)}


def rows_of(storage):
    return from_table(ResultsStore(storage).read())


def test_a_storage_that_fails_amid_predictions_is_no_failed_case(storage, context, predictor):
    storage.delete(run_paths.case_image(CASES[-1]))
    with pytest.raises(StorageError, match="no such file"):
        predict(context, TRAINING)
    assert not storage.exists(run_paths.prediction_record(TRAINING.id))

    write_map(storage, run_paths.case_image(CASES[-1]))
    predict(context, TRAINING)
    assert read_prediction_record(storage, TRAINING.id).failures == {}
    assert all(storage.exists(run_paths.prediction(TRAINING.id, case)) for case in CASES)
    assert predictor.num_predicted == len(CASES)


FAULTS = {
    "memory of a GPU": torch.OutOfMemoryError("CUDA out of memory"),
    "memory of torch": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
    "memory of numpy": MemoryError("Unable to allocate 728. TiB"),
    "a GPU": RuntimeError("CUDA error: unspecified launch failure"),
    "the network": ValueError("an image that it does not take"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_fault_of_an_image_ends_the_stage_with_the_name_of_its_case(fault, storage, context, predictor):
    predictor.errors = [None, FAULTS[fault]]
    with pytest.raises(type(FAULTS[fault])) as caught:
        predict(context, TRAINING)
    assert f"while {CASES[1].id} was predicted" in caught.value.__notes__
    assert not storage.exists(run_paths.prediction_record(TRAINING.id))


def test_an_image_that_cannot_be_read_leaves_the_other_cases_alone(storage, context, predictor):
    predictor.errors = [None, DataError("image.nii.gz: cut short")]
    predict(context, TRAINING)
    assert read_prediction_record(storage, TRAINING.id).failures == {CASES[1].id: "DataError: image.nii.gz: cut short"}
    assert predictor.num_predicted == len(CASES) - 1


def test_where_no_image_can_be_read_nothing_is_predicted(storage, context, predictor):
    predictor.errors = [DataError("the first"), *(DataError("another") for _ in CASES[1:])]
    with pytest.raises(DataError, match="the first"):
        predict(context, TRAINING)
    assert not storage.exists(run_paths.prediction_record(TRAINING.id))


def test_what_another_checkpoint_has_predicted_is_predicted_again(storage, context, predictor):
    predictor.errors = [None, None, RuntimeError("the machine goes down")]
    with pytest.raises(RuntimeError):
        predict(context, TRAINING)
    second = retrain(storage)
    # One case that the first model has predicted cannot be read any more.
    predictor.errors = [DataError("cut short")]
    predict(context, TRAINING)
    assert checkpoints(storage) == {f"checkpoint {second}"}
    assert not storage.exists(run_paths.prediction(TRAINING.id, CASES[0]))
    assert predictor.num_predicted == 2 + len(CASES) - 1


def test_predictions_of_another_checkpoint_are_neither_current_nor_scored(storage, context, predictor):
    assert not has_predicted(TRAINING, storage, storage.exists)
    predict(context, TRAINING)
    assert has_predicted(TRAINING, storage, storage.exists)
    retrain(storage)
    assert not has_predicted(TRAINING, storage, storage.exists)
    with pytest.raises(IntegrityError, match=r"predictions\.json: predictions of .*; expected those of checkpoint "):
        score(context, TRAINING)
    predict(context, TRAINING)
    assert has_predicted(TRAINING, storage, storage.exists)


@pytest.mark.parametrize("record", [b"{", b'{"failures": {}}'])
def test_a_damaged_record_or_one_without_a_checkpoint_is_not_current(storage, context, record):
    storage.write_bytes(run_paths.prediction_record(TRAINING.id), record)
    assert not has_predicted(TRAINING, storage, storage.exists)


def test_a_training_that_begins_takes_back_that_it_is_done(storage, context, monkeypatch):
    def fail(*_):
        raise StorageError("away")

    monkeypatch.setattr("orchestrator.stages.train.read_plan", fail)
    with pytest.raises(StorageError, match="away"):
        train(context, TRAINING)
    assert not storage.exists(run_paths.training_record(TRAINING.id))


def test_the_rows_of_a_case_without_a_prediction_give_the_reason(storage, context, predictor):
    predictor.errors = [None, DataError("image.nii.gz: cut short")]
    predict(context, TRAINING)
    score(context, TRAINING)
    messages = {f"{row.dataset}/{row.case}": row.score.message for row in rows_of(storage)}
    assert messages == {case.id: "" for case in CASES} | {CASES[1].id: "DataError: image.nii.gz: cut short"}
    line = f"1 without a score, the first test {CASES[1].id}: DataError: image.nii.gz: cut short"
    assert unpredicted_cases(rows_of(storage), [TRAINING]) == {TRAINING.id: line}
    assert unpredicted_cases(rows_of(storage), [replace(TRAINING, fold=1)]) == {}


@pytest.mark.parametrize(("damage", "found"), [("gone", "missing"), ("cut", "truncated or damaged")])
def test_a_prediction_that_is_damaged_is_no_row_and_predicted_again_once_removed(
    storage, context, predictor, damage, found
):
    predict(context, TRAINING)
    key = run_paths.prediction(TRAINING.id, CASES[2])
    whole = storage.read_bytes(key)
    storage.delete(key)
    if damage == "cut":
        storage.write_bytes(key, whole[: len(whole) // 2])
    with pytest.raises(IntegrityError, match=rf"{found}.*, though .*predictions\.json says that it is there"):
        score(context, TRAINING)
    assert ResultsStore(storage).finished() == set()
    storage.delete(key)
    assert not has_predicted(TRAINING, storage, storage.exists)
    predict(context, TRAINING)
    assert predictor.num_predicted == len(CASES) + 1
    score(context, TRAINING)
    assert {row.score.message for row in rows_of(storage)} == {""}


@pytest.mark.usefixtures("predictor")
@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), FailureKind.TRANSIENT),
        (MemoryError("cannot allocate memory"), FailureKind.MEMORY),
    ],
)
def test_a_disk_or_memory_that_fails_says_nothing_about_a_prediction_and_is_tried_again(
    storage, context, monkeypatch, error, kind
):
    predict(context, TRAINING)
    with monkeypatch.context() as once:
        once.setattr(scoring, "open_volume", Mock(side_effect=error))
        with pytest.raises(type(error)) as caught:
            score(context, TRAINING)
    assert classify(caught.value) is kind
    score(context, TRAINING)
    assert {row.score.message for row in rows_of(storage)} == {""}


@pytest.mark.parametrize(
    ("environments", "versions"),
    [
        ((), {}),
        ((OLD,), OLD),
        ((OLD, NEW), {"numpy": "2.2, then 2.3", "device": "cpu, then NVIDIA L4"}),
        (({}, OLD), {"numpy": "unknown, then 2.2", "device": "unknown, then cpu"}),
    ],
)
def test_rows_say_with_what_the_model_was_trained_and_of_which_checkpoint_they_are(
    storage, context, predictor, environments, versions
):
    storage.delete(run_paths.final_checkpoint(TRAINING.id))
    digest = save_model(storage, {}, environments=environments)
    predict(context, TRAINING)
    score(context, TRAINING)
    (provenance,) = {row.provenance for row in rows_of(storage)}
    assert json.loads(provenance.versions) == versions
    assert provenance.checkpoint_sha256 == digest


def test_a_record_comes_back_as_it_was(storage, context):
    digest = CheckpointStore(storage, training_id=TRAINING.id).load_final().sha256
    record = PredictionRecord(checkpoint_sha256=digest, failures={"mosmed/study_0255": "DataError: cut short"})
    write_prediction_record(storage, TRAINING.id, record)
    assert read_prediction_record(storage, TRAINING.id) == record


def test_what_is_damaged_is_named_with_what_to_do(context, storage, monkeypatch):
    final = next(key for key in storage.list_keys(f"trainings/{TRAINING.id}") if "final" in key)
    storage.write_bytes(final, storage.read_bytes(final)[:-1])
    with pytest.raises(IntegrityError, match=rf"{final}: the checksum .*; delete it to train again, from epoch 0"):
        predict(context, TRAINING)
    for key, read in (
        (run_paths.fingerprint(TRAINING.train[0], label_set=TRAINING.label_set), plan),
        (run_paths.plan(TRAINING.id), lambda place, training: read_plan(context.storage, training.id)),
    ):
        storage.write_bytes(key, b"{")
        with pytest.raises(IntegrityError, match=rf"{key}: .*not whole .*Delete it: the same command makes it again"):
            read(context, TRAINING)


@pytest.mark.parametrize("record", ["[]", "{}", "{", '{"checkpoint_sha256": null}'])
def test_a_damaged_record_is_as_none(storage, context, record):
    for key in (run_paths.prediction_record(TRAINING.id), run_paths.training_record(TRAINING.id)):
        storage.write_bytes(key, record.encode())
    assert not has_predicted(TRAINING, storage, storage.exists)


VOXELS = FurtherMetric(name="hd95-voxel", field="hd95_voxel_mm", title="HD95 of voxels (mm)")


def finished(storage, training, *metrics) -> set[str]:
    """What there is of a training, if nothing but its models, predictions and scores counts."""
    keys = [StageKey(kind=kind, training=training.id) for kind in (StageKind.PREDICT, StageKind.SCORE)]
    products = (run_paths.prediction_record(training.id), run_paths.results(training.id))
    graph = {
        key: Stage(key=key, dependencies=(), products=(product,), expected_s=1.0, training=training)
        for key, product in zip(keys, products, strict=True)
    }
    return {str(key.kind) for key in finished_stages(graph, storage, metrics=metrics)}


def test_what_a_study_asks_for_by_now_is_scored_from_the_predictions_that_are_there(storage, context, predictor):
    predict(context, TRAINING)
    score(context, TRAINING)
    assert finished(storage, TRAINING) == {"predict", "score"}
    assert finished(storage, TRAINING, VOXELS) == {"predict"}
    before = {(row.dataset, row.case, row.score.structure): row for row in rows_of(storage)}
    score(replace(context, metrics=(VOXELS,)), TRAINING)
    assert finished(storage, TRAINING, VOXELS) == finished(storage, TRAINING) == {"predict", "score"}
    assert [row.further.keys() for row in rows_of(storage)] == [{VOXELS.field}] * len(before)
    assert all(
        row.provenance == before[row.dataset, row.case, row.score.structure].provenance for row in rows_of(storage)
    )
    # What a study does not ask for any more is no harm.
    written = storage.read_bytes(run_paths.results(TRAINING.id))
    score(context, TRAINING)
    assert storage.read_bytes(run_paths.results(TRAINING.id)) == written
    assert predictor.num_predicted == len(CASES)


def test_nothing_is_predicted_for_a_further_metric(storage, context, predictor):
    predict(context, TRAINING)
    score(context, TRAINING)
    storage.delete(run_paths.prediction(TRAINING.id, CASES[0]))
    assert finished(storage, TRAINING, VOXELS) == {"predict", "score"}
    storage.delete(run_paths.results(TRAINING.id))
    assert finished(storage, TRAINING, VOXELS) == set()


def test_other_facets_of_an_ensemble_are_scored_anew(storage, context, predictor):
    predict(context, TRAINING)
    score(context, TRAINING)
    ensemble = replace(TRAINING, members=(TRAINING,))
    storage.write_bytes(
        run_paths.ensemble_record(TRAINING.id), storage.read_bytes(run_paths.training_record(TRAINING.id))
    )
    assert finished(storage, ensemble) == {"predict", "score"}
    joint = replace(ensemble, facets={**ensemble.facets, "kind": "joint"})
    assert finished(storage, joint) == {"predict"}
    score(context, joint)
    assert {row.facets["kind"] for row in rows_of(storage)} == {"joint"}
    assert finished(storage, joint) == {"predict", "score"}
    assert finished(storage, ensemble) == {"predict"}


def test_the_digest_of_the_data_is_that_of_the_cases_and_label_sets_of_the_training(storage, context, predictor):
    """Worked out from the records; that the cases have other label sets too, made before or after, changes nothing."""
    digests = {}
    for case in TRAINING.cases:
        digests[f"{case.id} image"] = f"of {run_paths.image_record(case)}"
        digests[f"{case.id} infection"] = f"of {run_paths.labels_record(case, label_set='infection')}"
        other = CaseRecord(sha256="other", source=SourceStamp(files=(), sha256=""))
        write_case_record(storage, run_paths.labels_record(case, label_set="lung"), other)
    predict(context, TRAINING)
    score(context, TRAINING)
    expected = hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
    assert {row.provenance.data_sha256 for row in rows_of(storage)} == {expected}


@pytest.mark.parametrize("generated", [(), CASES[:1]])
def test_scores_of_data_among_which_are_phantoms_are_called_scores_of_phantoms(storage, context, predictor, generated):
    for case in generated:
        record = replace(read_case_record(storage, run_paths.image_record(case)), is_phantom=True)
        write_case_record(storage, run_paths.image_record(case), record)
    predict(context, TRAINING)
    score(replace(context, data="downloads"), TRAINING)
    assert {row.provenance.phantoms for row in rows_of(storage)} == {bool(generated)}
