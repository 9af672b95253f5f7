"""Claims about checkpoints: whole, or passed over, or refused by name."""

import hashlib
import io
import json
import logging
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from orchestrator.errors import IntegrityError, StorageError, TrainingError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import MAGIC, CheckpointStore, fitting
from orchestrator.training.random_state import random_state, restore_random_state

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
    assert store.load_final().sha256 == digest
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
        store.load_final()


def test_a_write_that_is_cut_off_leaves_the_checkpoint_before_it(store, storage, monkeypatch):
    store.save_latest(state(1))

    def fail(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError("killed")

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OSError, match="killed"):
        store.save_latest(state(2))
    monkeypatch.undo()
    assert store.load_latest()["current_epoch"] == 1


class Program:
    """What runs when it is unpickled."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


def sealed(content, *, magic=MAGIC, number=1):
    """A file with the right checksum of whatever it holds."""
    body = number.to_bytes(8, "big") + content
    return magic + hashlib.sha256(body).digest() + body


def as_tree(tree, tensors=None):
    text = tree if isinstance(tree, bytes) else json.dumps(tree).encode()
    return len(text).to_bytes(8, "big") + text + safetensors.torch.save(tensors or {"a": torch.zeros(2, 3)})


@pytest.mark.parametrize("magic", [b"NNCKPT01", b"NNCKPT02", MAGIC])
def test_a_program_in_place_of_a_checkpoint_does_not_run(store, storage, tmp_path, magic):
    trace = tmp_path / "it has run"
    saved = io.BytesIO()
    torch.save({"current_epoch": Program(trace)}, saved)
    torch.load(io.BytesIO(saved.getvalue()), weights_only=False)
    assert trace.exists(), "the example itself must work"
    trace.unlink()
    for content in (saved.getvalue(), pickle.dumps(Program(trace)), as_tree(pickle.dumps(Program(trace)))):
        storage.write_bytes(FIRST, sealed(content, magic=magic))
        storage.write_bytes(run_paths.final_checkpoint(TRAINING), sealed(content, magic=magic, number=0))
        for load in (store.load_latest, store.load_final):
            with pytest.raises(IntegrityError, match=r"checkpoint_.*\.ckpt: .*delete it"):
                load()
    assert not trace.exists()


def test_a_checkpoint_of_an_earlier_version_is_named_with_what_to_do(store, storage):
    storage.write_bytes(run_paths.final_checkpoint(TRAINING), sealed(b"PK\x03\x04", magic=b"NNCKPT02"))
    with pytest.raises(IntegrityError, match=r"format NNCKPT02, which could run any program.*the version of this proj"):
        store.load_final()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 8,
        as_tree(b"{"),
        as_tree(b"\xff\xfe"),
        as_tree(b"[" * 100_000),
        as_tree([1]),
        as_tree({"tensor": "b"}),
        as_tree({"dict": [["a", {"tensor": "b"}]]}),
        as_tree({"dict": [["a", {"tensor": ["a"]}]]}),
        as_tree({"dict": [["a", {"tensor": "a", "axes": [0]}]]}),
        as_tree({"dict": [["a", {"tensor": "a", "axes": "x"}]]}),
        as_tree({"dict": [["a"]]}),
        as_tree({"dict": [[["a"], 1]]}),
        as_tree({"dict": [["a", {"scalar": ["|O", 1]}]]}),
        as_tree({"dict": [["a", {"scalar": ["|i1", 1000]}]]}),
        as_tree({"dict": [["a", {"builtins": "eval"}]]}),
        as_tree({"dict": []})[:-3],
        as_tree({"dict": []}) + b"1",
        as_tree({"dict": []}).replace(b'"F32"', b'"F99"'),
        as_tree({"dict": []}).replace(b"[2,3]", b"[2,9]"),
    ],
)
def test_what_is_no_state_is_refused_although_its_checksum_is_right(store, storage, content):
    storage.write_bytes(FIRST, sealed(content))
    with pytest.raises(IntegrityError, match=r"checkpoint_odd\.ckpt: .*delete it to go on from the one before"):
        store.load_latest()


def test_a_number_that_no_training_reaches_is_refused(store, storage):
    storage.write_bytes(FIRST, sealed(as_tree({"dict": []}), number=2**64 - 1))
    with pytest.raises(IntegrityError, match="checkpoint number 18446744073709551615 of a training"):
        store.load_latest()


def test_every_type_of_a_state_comes_back_as_it_was(store):
    shared = torch.randn(3, 4)
    last = torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d)
    saved = {
        "plain": [None, True, 7, -0.0, math.inf, "é", {"a": {}}, []],
        "tuples": (1, (2, (3,)), ()),
        "keys": {0: "zero", "0": "text", (1, 2): "pair", True: 1, None: 2},
        "scalars": [
            np.float32(0.1),
            np.float64(1 / 3),
            np.float32("nan"),
            np.int64(-(2**63)),
            np.bool_(1),
            np.float16(2),
        ],
        "arrays": [
            np.arange(6, dtype=np.uint32).reshape(2, 3),
            np.array(3.5),
            np.zeros((0, 3), np.int16),
            np.arange(9)[::2],
        ],
        "shared": {"encoder.weight": shared, "decoder.encoder.weight": shared, "part": shared[1:]},
        "layouts": [last, torch.randn(4, 3).T, torch.randn(4, 4)[:, ::2], torch.tensor(2.5), torch.zeros(0, 2)],
        "types": [torch.ones(3, dtype=dtype) for dtype in (torch.bfloat16, torch.bool, torch.uint8, torch.int64)],
        "a/b": {"c": torch.zeros(1)},
        "a": {"b/c": torch.ones(1)},
    }
    store.save_final(saved)
    loaded = store.load_final().state
    assert_same(loaded, saved)
    assert loaded["layouts"][0].stride() == last.stride()
    assert loaded["layouts"][1].stride() == (1, 3)


def assert_same(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        assert [type(key) for key in found] == [type(key) for key in expected]
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    elif isinstance(expected, (np.ndarray, np.generic)):
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()
    else:
        assert repr(found) == repr(expected)


def test_tensors_are_in_the_format_of_safetensors_under_their_own_names_and_shared_ones_once(store, storage):
    weight = torch.randn(1000)
    store.save_final({"network_weights": {"encoder.conv.weight": weight, "decoder.encoder.conv.weight": weight}})
    content = storage.read_bytes(run_paths.final_checkpoint(TRAINING))
    assert len(content) < 5000
    length = int.from_bytes(content[48:56], "big")
    tensors = safetensors.torch.load(content[56 + length :])
    assert list(tensors) == ["network_weights/encoder.conv.weight"]
    assert torch.equal(tensors["network_weights/encoder.conv.weight"], weight)


def test_what_no_state_holds_is_refused_before_anything_is_written(store, storage):
    with pytest.raises(TrainingError, match="optimizer/0: a set; expected a tensor, an array or a plain type"):
        store.save_latest({"optimizer": [{1, 2}]})
    assert storage.list_keys() == []


@pytest.mark.parametrize("position", [-1, 625, 2**31 - 1])
def test_a_place_outside_of_the_numbers_of_a_generator_is_refused(position):
    before = random_state(cuda=False)
    name, numbers, _, *gauss = before["numpy"]
    with pytest.raises(ValueError, match=f"numpy's generator is at number {position} of 624"):
        restore_random_state({**before, "numpy": (name, numbers, position, *gauss)}, cuda=False)


@pytest.mark.parametrize("error", [KeyError("x"), TypeError("x"), RuntimeError("size mismatch for conv.weight")])
def test_a_state_that_does_not_fit_is_said_to_be_the_fault_of_the_checkpoint(error):
    with pytest.raises(IntegrityError, match="T1: its checkpoint does not hold the state of this training"):  # noqa: SIM117
        with fitting("T1: its checkpoint"):
            raise error


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("x"), RuntimeError("can't allocate memory"), OSError("x")])
def test_what_is_wrong_with_the_machine_is_not_said_of_the_checkpoint(error):
    with pytest.raises(type(error)), fitting("T1: its checkpoint"):
        raise error
