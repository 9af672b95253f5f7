"""Claims about checkpoints: whole, or passed over, or refused by name."""

import logging

import pytest
import torch

from orchestrator.errors import IntegrityError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore

TRAINING = "T1-lung-fold0"
# The first checkpoint has number 1 and is odd.
SECOND, FIRST = run_paths.checkpoint_slots(TRAINING)


@pytest.fixture
def storage(tmp_path):
    return open_storage(str(tmp_path))


@pytest.fixture
def store(storage):
    return CheckpointStore(storage, training_id=TRAINING)


def state(epoch):
    return {"current_epoch": epoch, "weights": torch.arange(5.0) * epoch}


def tear(storage, key):
    storage.write_bytes(key, storage.read_bytes(key)[:-7])


def flip(storage, key, *, byte):
    content = bytearray(storage.read_bytes(key))
    content[byte] ^= 1
    storage.write_bytes(key, bytes(content))


def test_what_is_saved_is_loaded(store):
    store.save_latest(state(1))
    store.save_latest(state(2))
    loaded = store.load_latest()
    assert loaded["current_epoch"] == 2
    assert torch.equal(loaded["weights"], torch.tensor([0.0, 2.0, 4.0, 6.0, 8.0]))


def test_without_a_checkpoint_there_is_no_state(store):
    assert store.load_latest() is None
    assert not store.has_final()
    with pytest.raises(StorageError, match="checkpoint_final"):
        store.load_final()


@pytest.mark.parametrize("damage", [tear, lambda s, k: flip(s, k, byte=-1), lambda s, k: flip(s, k, byte=20)])
def test_of_a_damaged_latest_the_one_before_it_is_loaded_and_the_log_says_so(store, storage, caplog, damage):
    store.save_latest(state(1))
    store.save_latest(state(2))
    damage(storage, SECOND)
    with caplog.at_level(logging.WARNING):
        assert store.load_latest()["current_epoch"] == 1
    assert "checkpoint_even.ckpt" in caplog.text
    assert "torn or damaged" in caplog.text


def test_with_no_whole_checkpoint_left_nothing_starts_over_in_silence(store, storage):
    store.save_latest(state(1))
    store.save_latest(state(2))
    tear(storage, FIRST)
    tear(storage, SECOND)
    with pytest.raises(IntegrityError, match=r"checkpoint_even\.ckpt.*delete it to train from epoch 0"):
        store.load_latest()


def test_a_damaged_latest_is_replaced_and_not_the_whole_one_before_it(store, storage):
    store.save_latest(state(1))
    store.save_latest(state(2))
    tear(storage, SECOND)
    next_attempt = CheckpointStore(storage, training_id=TRAINING)
    next_attempt.save_latest(state(3))
    assert next_attempt.load_latest()["current_epoch"] == 3
    tear(storage, SECOND)
    assert next_attempt.load_latest()["current_epoch"] == 1


def test_the_last_two_are_kept_over_any_number_of_attempts(storage):
    for epoch in range(1, 6):
        CheckpointStore(storage, training_id=TRAINING).save_latest(state(epoch))
    assert storage.list_keys() == sorted([FIRST, SECOND])
    store = CheckpointStore(storage, training_id=TRAINING)
    assert store.load_latest()["current_epoch"] == 5
    storage.delete(FIRST)
    assert store.load_latest()["current_epoch"] == 4


def test_the_final_checkpoint_replaces_those_on_the_way_and_has_a_digest(store, storage):
    store.save_latest(state(1))
    store.save_latest(state(2))
    digest = store.save_final(state(3))
    assert storage.list_keys() == [run_paths.final_checkpoint(TRAINING)]
    assert store.has_final()
    assert store.load_final().state["current_epoch"] == 3
    assert len(digest) == 64
    assert store.final_sha256() == digest
    # Magic and digest take 8 + 32 bytes; the digest is of all that follows.
    assert storage.read_bytes(run_paths.final_checkpoint(TRAINING))[8:40].hex() == digest


def test_a_damaged_final_checkpoint_is_named(store, storage):
    key = run_paths.final_checkpoint(TRAINING)
    store.save_final(state(3))
    tear(storage, key)
    with pytest.raises(IntegrityError, match=r"checkpoint_final\.ckpt: the checksum does not match its \d+ bytes"):
        store.load_final()
    storage.write_bytes(key, b"PK\x03\x04 some other file")
    with pytest.raises(IntegrityError, match=r"checkpoint_final\.ckpt: begins with .*; expected a checkpoint"):
        store.final_sha256()


def test_a_write_that_is_cut_off_leaves_the_checkpoint_before_it(store, storage, monkeypatch):
    store.save_latest(state(1))

    def fail(*_):
        raise OSError("killed")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="killed"):
        store.save_latest(state(2))
    monkeypatch.undo()
    assert store.load_latest()["current_epoch"] == 1
