"""Claims about attempts at one training: the latest may write, whatever was given up for lost may not."""

import threading

import pytest

from orchestrator.errors import SupersededError, TrainingError
from orchestrator.scheduling.ended import Failed, FailureKind, kind_of
from orchestrator.stages.attempt import AttemptClaim, TrainingLog
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.numbered_files import last_number
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
    assert second.load_final().state == {"epoch": 3, "by": "first"}
    assert second.load_final().sha256 == digest
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


def failed_attempt(storage, *lines):
    """Return how an attempt has failed that logs these lines, as the driver hears of it."""

    def attempt():
        with TrainingLog(storage, run_paths.log(TRAINING)) as log:
            for line in lines:
                log.write(line)
            raise TrainingError("the loss is NaN")

    with pytest.raises(TrainingError) as caught:
        attempt()
    return Failed.of(caught.value, kind=kind_of(caught.value), has_log=True)


def test_an_attempt_that_fails_tells_how_its_own_log_ended(storage):
    for number in range(2):
        failed = failed_attempt(storage, f"epoch {number}")
        log = storage.read_bytes(run_paths.log(TRAINING)).decode()
        assert log.splitlines()[-3:] == list(failed.last_lines[-3:])
        assert failed.last_lines[-1] == "orchestrator.errors.TrainingError: the loss is NaN"
        assert (failed.line, failed.kind) == ("TrainingError: the loss is NaN", FailureKind.DETERMINISTIC)
    assert log.count("the loss is NaN\n") == 2
    # What keeps no log has nothing to tell of it.
    assert Failed.of(TrainingError("no plan"), kind=FailureKind.DETERMINISTIC).last_lines == ()
