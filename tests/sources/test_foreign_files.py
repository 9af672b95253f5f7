"""What desktops, backups and synchronisation tools leave in the folders of a run changes nothing."""

import errno
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from patch_cases import make_case
from test_results import row

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cli import status, verify
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, identity_of
from orchestrator.driver.run import run
from orchestrator.errors import StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.patches.record import PatchRecord
from orchestrator.patches.writer import write_patches
from orchestrator.progress import NoListener
from orchestrator.ray_backend.on_demand import connect_to_ray
from orchestrator.results.store import ResultsStore
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.numbered_files import last_number

APPLE_DOUBLE = bytes.fromhex("00051607 00020000") + b"Mac OS X        " + bytes(100)
"""How every `._` file begins."""


def left_beside(path: Path) -> list[Path]:
    """Names that others give to files beside one of ours, or make of it."""
    return [
        path.with_name(f"._{path.name}"),
        path.with_name(f"{path.stem} (conflicted copy 2026-11-28){path.suffix}"),
        path.with_name(f"{path.stem} 2{path.suffix}"),
        path.with_name(f"{path.name}~"),
        path.with_name(f".{path.name}.swp"),
        path.with_name(f"{path.stem}.sync-conflict-20261128-101112-ABCDEFG{path.suffix}"),
    ]


@pytest.fixture
def finished(tmp_path):
    """A training with its results, patches, events of a driver and of an attempt, a record of a driver."""
    study = load_study()
    trainings = study.trainings(only=("T1-lung-fold0",), preset=PRESETS["smoke"])
    request = RunRequest(
        study=study,
        trainings=trainings,
        preset=PRESETS["smoke"],
        seed=0,
        data=None,
        output=str(tmp_path / "run"),
        cluster=LocalCluster(),
    )
    storage = open_storage(request.output)
    claim_output(storage, identity=identity_of(request), trainings=["T1-lung-fold0"])
    ResultsStore(storage).commit("T1-lung-fold0", [row(0.5, 0.25)])
    key = run_paths.patches("T1-lung-fold0", trainings[0].train[0])
    data, seg, properties = make_case()
    with storage.writing(key) as path:
        write_patches(path, data=data, seg=seg, properties=properties)
        storage.write_bytes(run_paths.record_of_patches(key), PatchRecord.of_file(path).to_bytes())
    now = datetime(2020, 4, 20, 12, tzinfo=UTC)
    EventLog(storage, run_started=now, clock=lambda: now, writer=f"{run_paths.TRAINING_EVENTS}/T1-lung-fold0-").append(
        "attempt_ended", training="T1-lung-fold0", error="", is_preemption=False
    )
    return request, storage


def test_a_group_may_have_a_dot_in_its_name(tmp_path):
    store = ResultsStore(open_storage(str(tmp_path)))
    store.commit("liver.v2-fold0", [replace(row(0.5, 0.25), training_id="liver.v2-fold0")])
    assert store.finished() == {"liver.v2-fold0"}
    assert store.read()["training_id"].to_pylist() == ["liver.v2-fold0"]


def test_files_of_others_change_nothing(finished, capsys):
    request, storage = finished
    root = Path(storage.location)
    expected = call_again(request)
    before = {key: storage.read_bytes(key) for key in storage.list_keys(run_paths.TABLES)}
    kinds = [event["kind"] for event in read_events(storage)]
    for path in [path for path in root.rglob("*") if path.is_file()]:
        for other in left_beside(path):
            other.write_bytes(APPLE_DOUBLE)
    for folder in [path for path in root.rglob("*") if path.is_dir()]:
        for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
            (folder / name).write_bytes(b"\0\0\0\1Bud1")
        (folder / ".Trashes").mkdir()
        (folder / ".Trashes" / "T1-lung-fold1.parquet").write_bytes(b"")

    assert [event["kind"] for event in read_events(storage)] == kinds
    assert ResultsStore(storage).query("SELECT avg(dsc) AS dsc FROM scores")["dsc"].to_pylist() == [0.5]
    assert status.main(["--output", str(root)]) == 0
    assert "1 of 1 trainings done" in capsys.readouterr().out
    assert verify.main(["--output", str(root)]) == 0
    assert "1 of 1 patch files are whole" in capsys.readouterr().out
    assert last_number(storage, run_paths.DRIVERS) == 1
    assert call_again(request).tables == expected.tables
    assert {key: storage.read_bytes(key) for key in before} == before


def call_again(request):
    return run(request, connect=connect_to_ray, listener=NoListener())


@pytest.mark.parametrize("name", ["lost+found", ".Trashes"])
def test_a_folder_that_is_closed_to_us_is_not_looked_into_if_it_is_the_disks_own(tmp_path, monkeypatch, name):
    """As root one may look into any folder, so the refusal of the system is played."""
    storage = open_storage(tmp_path)
    storage.write_bytes("cases/x", b"")
    for folder in (name, "patches"):
        (tmp_path / folder).mkdir()
    walk = os.walk

    def refusing(top, *, onerror, **more):
        onerror(PermissionError(errno.EACCES, "Permission denied", str(tmp_path / closed)))
        return walk(top, onerror=onerror, **more)

    monkeypatch.setattr(os, "walk", refusing)
    closed = name
    assert storage.list_keys() == ["cases/x"]
    closed = "patches"
    with pytest.raises(StorageError, match="patches: cannot list it: Permission denied"):
        storage.list_keys()
