"""Claims about faults: each is survived or said in one clear line, and nothing corrupt is committed."""

import errno
import itertools
import shutil
import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import botocore.endpoint
import pytest
import torch
from fault_server import failing_s3
from tiny_training import CASES, tiny_plan, tiny_preset, train_tiny, write_all_patches, write_ball

from orchestrator.benchmark.definition import Case
from orchestrator.cli.run import main
from orchestrator.driver.lease import Lease
from orchestrator.errors import ConfigError, IntegrityError, StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.patches.record import PatchRecord
from orchestrator.patches.writer import write_patches
from orchestrator.stages.attempt import AttemptEvents, TrainingLog
from orchestrator.stages.repair import TrainingPatches
from orchestrator.storage import copies, local, run_paths, s3
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.preprocessing import preprocess_case

TRAINING = "T1-infection-fold0"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("balls")
    return [write_ball(folder, index) for index in range(4)]


@pytest.fixture(scope="module")
def setting(files, tmp_path_factory):
    plan = tiny_plan(files, preset=tiny_preset())
    return plan, write_all_patches(tmp_path_factory.mktemp("preprocessed") / "patches", files, plan)


def fit(storage, setting):
    plan, patches = setting
    store = CheckpointStore(storage, training_id=TRAINING)
    with TrainingLog(storage, run_paths.log(TRAINING)) as log, AttemptEvents(storage, training_id=TRAINING) as events:
        train_tiny(
            plan=plan,
            preset=tiny_preset(),
            training_id=TRAINING,
            train_cases=CASES[:3],
            val_cases=CASES[3:],
            patches=patches,
            checkpoint=store,
            log=log.write,
            seed=5,
            device="cpu",
            num_loader_workers=0,
            on_epoch=lambda _: log.flush(),
            on_milestone=events.add,
        )
    return store.load_final().state["network_weights"]


@pytest.fixture(scope="module")
def undisturbed(setting, tmp_path_factory):
    return fit(open_storage(tmp_path_factory.mktemp("undisturbed")), setting)


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("num_writes", [0, 9, 20])
def test_a_disk_that_fills_up_is_said_in_one_line_and_costs_no_finished_work(
    undisturbed, setting, tmp_path, monkeypatch, num_writes
):
    storage, flush, writes = open_storage(tmp_path), local.flush, itertools.count()

    def full(path):
        if next(writes) >= num_writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    with monkeypatch.context() as patch:
        patch.setattr(local, "flush", full)
        with pytest.raises(StorageError, match=r"\.ckpt: no space left to write it\. Free space") as caught:
            fit(storage, setting)
    assert caught.value.can_retry
    assert not list(tmp_path.rglob(".tmp-*"))
    assert_same_weights(fit(storage, setting), undisturbed)


FILL = """
import sys
from orchestrator.errors import StorageError
from orchestrator.storage.filesystem import open_storage

storage = open_storage(sys.argv[1])
written = []
try:
    for number in range(100):
        storage.write_bytes(f"file-{number}", bytes([number]) * 100_000)
        written.append(number)
except StorageError as error:
    assert "no space left" in str(error), error
assert 0 < len(written) < 100
assert storage.list_keys() == sorted(f"file-{number}" for number in written)
assert all(storage.read_bytes(f"file-{number}") == bytes([number]) * 100_000 for number in written)
print("survived")
"""


def test_a_file_system_that_is_truly_full_keeps_what_is_whole_and_nothing_else(tmp_path):
    mount = f"mount -t tmpfs -o size=2m tmpfs {tmp_path} && exec {sys.executable} -c '{FILL}' {tmp_path}"
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    if shutil.which("unshare") is None or subprocess.run([*command[:4], "true"], check=False).returncode:
        pytest.skip("this machine does not let users mount a file system of their own")
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.stdout == "survived\n", ran.stderr


def test_an_output_that_cannot_be_written_is_said_in_one_line_before_anything_is_started(tmp_path, monkeypatch, capsys):
    def refuse(path, **_):
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "touch", refuse)
    assert main(["--output", str(tmp_path / "run"), "--only", TRAINING]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    assert "cannot write it: Read-only file system" in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_checkpoint_that_is_torn_anywhere_is_passed_over(tmp_path):
    storage = open_storage(tmp_path)
    first = CheckpointStore(storage, training_id=TRAINING)
    first.save_latest({"epoch": 1})
    first.save_latest({"epoch": 2})
    second_slot, _ = run_paths.checkpoint_slots(TRAINING)
    whole = storage.read_bytes(second_slot)
    for length in [*range(64), len(whole) // 2, len(whole) - 1]:
        storage.write_bytes(second_slot, whole[:length])
        assert CheckpointStore(storage, training_id=TRAINING).load_latest() == {"epoch": 1}, length
    for place in range(0, len(whole), 17):
        storage.write_bytes(second_slot, whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        assert CheckpointStore(storage, training_id=TRAINING).load_latest() == {"epoch": 1}, place


@pytest.fixture
def patches_of_a_run(files, setting, tmp_path):
    """The patch files of a training in its output location, and what writes one of them again."""
    storage, plan = open_storage(tmp_path), setting[0]
    cases = [Case(dataset="balls", name=f"case_{index}") for index in range(2)]

    def write_again(case):
        image, labels = files[cases.index(case)]
        made = preprocess_case([image], labels, plan)
        with storage.writing(run_paths.patches(TRAINING, case)) as path:
            write_patches(path, data=made.data, seg=made.seg, properties=made.properties)
            storage.write_bytes(
                run_paths.record_of_patches(run_paths.patches(TRAINING, case)), PatchRecord.of_file(path).to_bytes()
            )

    for case in cases:
        write_again(case)
    return TrainingPatches(
        storage=storage,
        training_id=TRAINING,
        cases=cases,
        write_again=write_again,
    )


@pytest.mark.parametrize("damage", ["flipped", "torn", "gone", "without a record"])
def test_a_damaged_patch_file_is_preprocessed_again(patches_of_a_run, damage):
    storage, case = patches_of_a_run.storage, patches_of_a_run.cases[1]
    key = run_paths.patches(TRAINING, case)
    whole = storage.read_bytes(key)
    match damage:
        case "flipped":
            middle = len(whole) // 2
            storage.write_bytes(key, whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        case "torn":
            storage.write_bytes(key, whole[: len(whole) // 2])
        case "gone":
            storage.delete(key)
        case _:
            storage.delete(run_paths.record_of_patches(run_paths.patches(TRAINING, case)))
    notes = []
    assert patches_of_a_run.repair(note=notes.append) == 1
    assert len(notes) == 1
    assert notes[0].endswith("balls/case_1 is preprocessed again")
    assert storage.read_bytes(key) == whole
    assert patches_of_a_run.repair(note=notes.append) == 0
    for key, record in patches_of_a_run.records().items():
        record.verify(storage, key)


def test_a_patch_file_that_is_damaged_again_and_again_is_an_error(patches_of_a_run):
    patches = replace(patches_of_a_run, write_again=lambda _: None)
    patches.storage.write_bytes(run_paths.patches(TRAINING, patches.cases[0]), b"nothing")
    with pytest.raises(IntegrityError, match="7 bytes; expected"):
        patches.repair(note=lambda _: None)


def test_a_damaged_patch_file_whose_image_is_lost_too_counts_as_lost(patches_of_a_run):
    def write_again(case):
        raise StorageError("no such file")

    patches = replace(patches_of_a_run, write_again=write_again)
    key = run_paths.patches(TRAINING, patches.cases[0])
    patches.storage.write_bytes(key, b"nothing")
    with pytest.raises(StorageError, match="no such file"):
        patches.repair(note=lambda _: None)
    assert not patches.storage.exists(run_paths.record_of_patches(key))


@pytest.fixture
def s3_door(tmp_path, monkeypatch):
    with failing_s3() as (door, address):
        for name, value in {"AWS_ENDPOINT_URL": address, "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        # The waiting between two tries is boto's; its length is no claim of ours.
        monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
        s3._new_client.cache_clear()
        monkeypatch.setattr(copies, "_cache_folder", lambda: tmp_path)
        bucket = f"bucket-{uuid.uuid4().hex}"
        s3._client().create_bucket(Bucket=bucket)
        yield door, open_storage(f"s3://{bucket}/run")
        s3._new_client.cache_clear()


def test_a_training_on_s3_with_failures_ends_with_the_same_weights(undisturbed, setting, s3_door):
    door, storage = s3_door
    door.fail("SlowDown", times=1)
    assert_same_weights(fit(storage, setting), undisturbed)


def test_one_driver_at_a_time_also_on_s3_that_fails(s3_door):
    door, storage = s3_door
    door.fail("SlowDown", times=1)
    with Lease(storage) as lease:
        lease.check()
        with pytest.raises(ConfigError, match="a driver is at work there"):
            Lease(storage).__enter__()
    with Lease(storage):
        assert storage.list_keys(run_paths.DRIVERS) == [run_paths.driver(2)]


def test_a_storage_that_keeps_no_log_does_not_stop_a_training(undisturbed, setting, tmp_path, monkeypatch):
    storage, write = open_storage(tmp_path), local.LocalStorage.write_bytes

    def refuse_logs(self, key, data):
        if key.startswith((run_paths.LOGS, run_paths.EVENTS)):
            raise StorageError(f"{key}: away")
        write(self, key, data)

    with monkeypatch.context() as patch:
        patch.setattr(local.LocalStorage, "write_bytes", refuse_logs)
        assert_same_weights(fit(storage, setting), undisturbed)


def test_a_clock_that_is_set_back_does_not_silence_the_events(tmp_path):
    start = datetime(2026, 11, 24, 12, tzinfo=UTC)
    times = iter([start, start - timedelta(hours=1), start - timedelta(hours=1, seconds=-1)])
    events = EventLog(open_storage(tmp_path), run_started=start, clock=lambda: next(times))
    events._interval_s = 5.0
    for kind in ("first", "second"):
        events.append(kind)
    assert [event["kind"] for event in read_events(open_storage(tmp_path))] == ["first", "second"]


def test_a_clock_that_jumps_ahead_costs_a_write_under_way_its_attempt_and_nothing_else(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    storage.write_bytes("a", b"old")
    with pytest.raises(StorageError, match="a: cannot write it") as caught, storage.writing("a") as path:  # noqa: PT012
        path.write_bytes(b"new")
        with monkeypatch.context() as patch:
            now = local.time.time()
            patch.setattr(local, "time", SimpleNamespace(time=lambda: now + 10 * local.STALE_AFTER_S))
            # The next driver takes the unfinished file for a forgotten one.
            storage.sweep()
    assert caught.value.can_retry
    assert storage.read_bytes("a") == b"old"
