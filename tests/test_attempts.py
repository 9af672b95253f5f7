"""Claims about attempts at one training: the latest may write, whatever was given up for lost may not."""

import threading
from contextlib import nullcontext

import pytest
import torch

from orchestrator.benchmark.loading import load_benchmark
from orchestrator.benchmark.presets import PRESETS
from orchestrator.errors import GpuError, StorageError, SupersededError
from orchestrator.pipeline import work
from orchestrator.pipeline.attempt import AttemptClaim, TrainingLog
from orchestrator.pipeline.failures import FailureKind, kind_of
from orchestrator.pipeline.workplace import Workplace
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.numbered_files import last_number
from orchestrator.training import gpu, prediction
from orchestrator.training.checkpoint import CheckpointStore

TRAINING = "T1-infection-fold0"


@pytest.fixture
def storage(tmp_path):
    return open_storage(tmp_path)


def begin(storage):
    return CheckpointStore(storage, training_id=TRAINING, check=AttemptClaim(storage, training_id=TRAINING).check)


def content(storage):
    return {key: storage.read_bytes(key) for key in storage.list_keys()}


def test_an_attempt_after_which_another_has_begun_writes_nothing_more(storage):
    cut_off = begin(storage)
    cut_off.save_latest({"epoch": 1})
    later = begin(storage)
    assert later.load_latest() == {"epoch": 1}
    later.save_latest({"epoch": 2})
    before = content(storage)
    for save in (cut_off.save_latest, cut_off.save_final):
        with pytest.raises(SupersededError, match=r"fold0: attempt 2 has begun, since this one, number 1 on .*lost"):
            save({"epoch": 7})
    assert content(storage) == before


def test_being_superseded_is_no_fault_of_the_training():
    assert kind_of(SupersededError("")) is FailureKind.PREEMPTION


def test_a_final_checkpoint_is_never_replaced_and_those_on_the_way_stay_with_their_attempt(storage):
    # Two that passed the check before the other was there.
    first, second = (CheckpointStore(storage, training_id=TRAINING) for _ in range(2))
    digest = first.save_final({"epoch": 3, "by": "first"})
    second.save_latest({"epoch": 2})
    with pytest.raises(SupersededError, match="another attempt has saved its final checkpoint meanwhile"):
        second.save_final({"epoch": 3, "by": "second"})
    assert second.load_final() == {"epoch": 3, "by": "first"}
    assert second.final_sha256() == digest
    assert second.load_latest() == {"epoch": 2}


def test_of_many_attempts_that_begin_at_once_one_may_write(storage):
    claims = []
    threads = [
        threading.Thread(target=lambda: claims.append(AttemptClaim(storage, training_id=TRAINING))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    allowed = 0
    for claim in claims:
        try:
            claim.check()
        except SupersededError:
            continue
        allowed += 1
    assert (len(claims), allowed) == (8, 1)
    assert last_number(storage, run_paths.attempts(TRAINING)) >= 1


def test_the_log_is_that_of_the_later_attempt(storage):
    key = run_paths.log(TRAINING)

    def be_superseded():
        with TrainingLog(storage, key) as log:
            log.write("the first begins")
            storage.write_bytes(key, b"the second is done\n")
            raise SupersededError("another has begun")

    with pytest.raises(SupersededError):
        be_superseded()
    assert storage.read_bytes(key) == b"the second is done\n"


class Predictor:
    """Copies images; the errors that it is given come up one after the other instead."""

    def __init__(self, errors):
        self.errors = list(errors)

    def predict(self, image, path):
        if self.errors and (error := self.errors.pop(0)):
            raise error
        path.write_bytes(image.read_bytes())


@pytest.fixture
def trained(storage, tmp_path, monkeypatch):
    """A workplace and a training whose model is there; what it predicts with is played."""
    (training,) = load_benchmark().trainings(only=(TRAINING,), preset=PRESETS["smoke"])

    def on(device, *, errors=()):
        place = Workplace(
            output=str(tmp_path),
            data=None,
            preset=PRESETS["smoke"],
            seed=0,
            datasets={},
            label_sets={},
            phantom_cases={},
            device=device,
            num_threads=1,
            num_loader_processes=0,
            cloud=None,
        )
        predictor = Predictor(errors)
        monkeypatch.setattr(prediction, "load_predictor", lambda *_, **__: predictor)
        return place, training

    monkeypatch.setattr(work, "_read_plan", lambda *_: None)
    CheckpointStore(storage, training_id=TRAINING).save_final({})
    return on


def cases_of(training):
    return sorted({case for evaluation in training.evaluation_sets for case in evaluation.cases})


def test_a_storage_that_fails_amid_predictions_is_no_failed_case(storage, trained):
    place, training = trained("cpu")
    cases = cases_of(training)
    # All images but the last one can be reached for now.
    for case in cases[:-1]:
        storage.write_bytes(run_paths.case_image(case), b"image")
    with pytest.raises(StorageError, match="no such file"):
        work.predict(place, training)
    assert not storage.exists(run_paths.prediction_record(TRAINING))

    storage.write_bytes(run_paths.case_image(cases[-1]), b"image")
    work.predict(place, training)
    assert b'"failures": {}' in storage.read_bytes(run_paths.prediction_record(TRAINING))
    assert all(storage.exists(run_paths.prediction(TRAINING, case)) for case in cases)


FAULTS = {
    "memory": (torch.OutOfMemoryError("CUDA out of memory"), True, torch.OutOfMemoryError),
    "a broken GPU": (RuntimeError("CUDA error: unspecified launch failure"), False, GpuError),
    "the case": (RuntimeError("a case that no network takes"), True, None),
}
"""By what is at fault: an error, whether the GPU works after it, and what the stage fails with."""


@pytest.mark.parametrize("fault", FAULTS)
def test_what_a_gpu_does_is_no_failed_case(fault, storage, trained, monkeypatch):
    error, works, expected = FAULTS[fault]

    def check():
        if not works:
            raise GpuError("the GPU does not work")

    monkeypatch.setattr(gpu, "check_gpu", check)
    place, training = trained("cuda", errors=[None, error])
    for case in cases_of(training):
        storage.write_bytes(run_paths.case_image(case), b"image")
    with pytest.raises(expected) if expected else nullcontext():
        work.predict(place, training)
    record = run_paths.prediction_record(TRAINING)
    assert storage.exists(record) == (expected is None)
    assert expected or b"a case that no network takes" in storage.read_bytes(record)
