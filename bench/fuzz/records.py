"""Results, records, events and configuration files to be changed, and what reads them."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.fuzz.mutations import Random, mutate_json, mutate_text
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.tables import load_tables
from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.driver.claim import RUN_FORMAT, claim_output
from orchestrator.driver.lease import DriverRecord, latest_driver
from orchestrator.events import EventLog, read_events
from orchestrator.inference.models import members_of
from orchestrator.patches.record import PatchRecord
from orchestrator.results.records import CaseScore, Provenance, ResultRow, ScoreStatus
from orchestrator.results.store import ResultsStore, from_table
from orchestrator.results.trials import TrialRecord, read_search, search_of, write_search
from orchestrator.stages.records.cases import read_case_record
from orchestrator.stages.records.ensembles import is_of_models, read_comparison
from orchestrator.stages.records.latest_epoch import read_latest_epoch
from orchestrator.stages.records.predictions import read_prediction_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

ROOT = Path(__file__).resolve().parents[2]
_TRAINING = "T1-lung-fold0"
STUDY = ROOT / "splits" / "covid19"
_STUDY_FILES = tuple(sorted(path.name for path in STUDY.iterdir()))
_NAME_BYTES = 24
_CLUSTERS = ("local.yaml", "existing.yaml", "ssh.yaml", "slurm.yaml", "kubernetes.yaml", "aws.yaml", "prices.yaml")
_CASE = Case(dataset="covid-19-ct-seg", name="a")
_SHA256 = "0123456789abcdef" * 4


def results(folder: Path) -> list[bytes]:
    """Return the rows of a training."""
    provenance = Provenance(
        preset="smoke",
        seed=7,
        versions='{"nnunetv2": "2.8.1"}',
        data_sha256=_SHA256,
        split_sha256=_SHA256,
        plan_sha256=_SHA256,
        checkpoint_sha256=_SHA256,
        phantoms=True,
        is_capped=True,
        train_elapsed_s=12.5,
    )
    rows = [
        ResultRow(
            training_id=_TRAINING,
            group="T1-lung",
            fold=0,
            configuration="3d_fullres",
            facets={"task": 1, "subtask": "lung"},
            evaluation_set="test",
            dataset="covid-19-ct-seg",
            case=f"case_{index}",
            score=CaseScore(
                structure="left_lung",
                status=ScoreStatus.SCORED,
                dsc=1 / (index + 1),
                nsd=1 / (index + 3),
                tolerance_mm=1.0,
                spacing_mm=(5.0, 0.75, 0.75),
                num_reference_voxels=index * 1001,
                num_predicted_voxels=index * 999,
            ),
            provenance=provenance,
        )
        for index in range(24)
    ]
    storage = open_storage(str(folder))
    ResultsStore(storage).commit(_TRAINING, rows)
    return [storage.read_bytes(run_paths.results(_TRAINING))]


def read_results(content: bytes, folder: Path) -> str:
    """Read the rows as tables do."""
    storage = open_storage(str(folder))
    storage.write_bytes(run_paths.results(_TRAINING), content)
    return repr(from_table(ResultsStore(storage).read()))


def patch_records(_folder: Path) -> list[bytes]:
    """Return a record of patches."""
    return [PatchRecord(num_bytes=1000, sha256=_SHA256, version=2).to_bytes()]


def read_patch_record(content: bytes, _folder: Path) -> str:
    """Parse it."""
    return repr(PatchRecord.from_bytes(content))


def run_records(_folder: Path) -> list[bytes]:
    """Return one record that stands for all that a run writes."""
    driver = dict.fromkeys(("host", "processes", "process_start", "mark"), "x")
    DriverRecord(**driver, pid=1)
    epoch = {
        **dict.fromkeys(("epoch", "num_epochs"), 3),
        **dict.fromkeys(("train_loss", "val_loss", "pseudo_dice", "elapsed_s", "loader_wait_s"), 0.5),
        "is_typical": True,
    }
    record: dict[str, Any] = {
        "training": {"checkpoint_sha256": _SHA256, "elapsed_s": 3.5, "environments": [{"torch": "2"}]},
        "predictions": {"checkpoint_sha256": _SHA256, "failures": {"a--1": "DataError: x"}},
        "driver": {**driver, "pid": 1, "is_released": True},
        "run": {
            "format": RUN_FORMAT,
            "benchmark_sha256": "x",
            "preset": {"name": "smoke", "num_epochs": 2},
            "seed": 0,
            "data": "x",
            "trainings": ["a"],
        },
        "image": {
            "sha256": _SHA256,
            "source": {"files": [{"name": "a/b.nii.gz", "num_bytes": 5, "mtime_ns": 7}], "sha256": _SHA256},
            "notes": ["x"],
            "warnings": [],
            "spacing_mm": [5.0, 0.8, 0.8],
            "size": [40, 64, 64],
            "original_grid": {
                "size": [64, 64, 40],
                "spacing_mm": [0.8, 0.8, 5.0],
                "origin_mm": [0.0, 0.0, 0.0],
                "direction": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
            },
        },
        "progress": {**epoch, "host": "x", "node": "", "earlier": [epoch]},
    }
    return [json.dumps(record).encode()]


def read_run_record(content: bytes, folder: Path) -> str:
    """Read each part where a run keeps it."""
    storage = open_storage(str(folder))
    keys = {
        "training": run_paths.training_record(_TRAINING),
        "predictions": run_paths.prediction_record(_TRAINING),
        "driver": run_paths.driver(1),
        "run": run_paths.RUN,
        "progress": run_paths.training_progress(_TRAINING),
        "image": run_paths.image_record(_CASE),
    }
    try:
        parts = json.loads(content)
        parts = {name: json.dumps(parts[name]).encode() for name in keys}
    except (KeyError, RecursionError, TypeError, ValueError):
        parts = dict.fromkeys(keys, content)
    for name, key in keys.items():
        storage.write_bytes(key, parts[name])
    found = [read_latest_epoch(storage, _TRAINING), latest_driver(storage), read_prediction_record(storage, _TRAINING)]
    found.append(read_case_record(storage, run_paths.image_record(_CASE)))
    driver = found[1]
    alive = driver.is_at_work(storage) if isinstance(driver, DriverRecord) else None
    identity = {"benchmark_sha256": "x", "preset": {"name": "smoke", "num_epochs": 2}, "seed": 0, "data": "x"}
    claim_output(storage, identity=identity, trainings=["a"])
    return repr((found, alive))


def choices(folder: Path) -> list[bytes]:
    """Return the record of a search, and that of an ensemble."""
    storage = open_storage(str(folder))
    trials = tuple(
        TrialRecord(
            number=n,
            settings={"rate": 0.1 * n},
            dsc=0.5,
            nsd=None,
            num_epochs=3,
            is_whole=n > 0,
            hours=0.5,
            fidelity=int(n > 0),
            first_score=0.4,
            epochs_in_all=4,
        )
        for n in range(3)
    )
    fidelities = [{"preset": "quick", "folds": 1}, {"preset": "paper", "folds": 1}]
    about = {"training": "a", "metric": "dsc", "sampler": "random", "fidelities": fidelities, "milestones": [1, 3]}
    write_search(storage, search_of(trials, best=1, about=about), about=about)
    ensemble = {"members": ["a", "b"], "declaration_sha256": _SHA256, "checkpoint_sha256": _SHA256}
    candidates = [{"groups": ["a"], "dsc": 0.5}, {"groups": ["a", "b"], "dsc": None}]
    return [storage.read_bytes(run_paths.SWEEP), json.dumps({**ensemble, "candidates": candidates}).encode()]


def read_choice(content: bytes, folder: Path) -> str:
    """Read it as what it looks like."""
    storage = open_storage(str(folder))
    if b"trials" in content:
        storage.write_bytes(run_paths.SWEEP, content)
        return repr(read_search(storage))
    key = run_paths.ensemble_record("a")
    storage.write_bytes(key, content)
    return repr(
        (
            is_of_models(storage, key=key, among=("a", "b")),
            read_comparison(storage, key, groups=("a", "b"), by="dsc"),
            members_of(storage, "a"),
        )
    )


def events(folder: Path) -> list[bytes]:
    """Return a segment with an event of each kind that is read."""
    storage = open_storage(str(folder))
    log = EventLog(
        storage, run_started=datetime(2020, 4, 20, tzinfo=UTC), clock=lambda: datetime(2020, 4, 20, tzinfo=UTC)
    )
    log.append("run_started", trainings=["a"], min_gain_s=600.0)
    log.append("stage_started", stage="train a", stage_kind="train", attempt=1, gpu_kind="A10G", gpus=0.5)
    log.append("stage_failed", stage="train a", stage_kind="train", error="x", final=False)
    log.append("stage_finished", stage="train a", stage_kind="train", elapsed_s=3.5)
    log.append("training_epoch", training="a", epoch=1, num_epochs=2, train_loss=None)
    log.append("run_finished", trainings_done=1, stages_failed=0, elapsed_s=4.0)
    return [storage.read_bytes(key) for key in storage.list_keys(run_paths.EVENTS)]


def read_event_file(content: bytes, folder: Path) -> str:
    """Read the history."""
    storage = open_storage(str(folder))
    storage.write_bytes(f"{run_paths.EVENTS}/20200420T000000.000000-00000.jsonl", content)
    return repr(read_events(storage))


def mutate_events(content: bytes, random: Random) -> bytes:
    """Change the tree of one line, or the text."""
    lines = content.splitlines()
    if random.random() < 0.5:
        return mutate_text(content, random)
    index = int(random.integers(len(lines)))
    lines[index] = mutate_json(lines[index], random)
    return b"\n".join(lines) + b"\n"


def clusters(_folder: Path) -> list[bytes]:
    """Return the cluster files of this project and its prices."""
    return [(ROOT / "clusters" / name).read_bytes() for name in _CLUSTERS]


def read_cluster(content: bytes, folder: Path) -> str:
    """Load it as what it looks like."""
    path = folder / "file.yaml"
    path.write_bytes(content)
    return repr(load_prices(path) if b"usd_per_hour" in content else load_cluster(path))


def studies(_folder: Path) -> list[bytes]:
    """Return the files of the study of this project, each behind its name."""
    return [name.encode().ljust(_NAME_BYTES) + (STUDY / name).read_bytes() for name in _STUDY_FILES]


def read_study(content: bytes, folder: Path) -> str:
    """Load a study of which one file is the changed one."""
    for name in _STUDY_FILES:
        shutil.copy(STUDY / name, folder / name)
    (folder / content[:_NAME_BYTES].decode().strip()).write_bytes(content[_NAME_BYTES:])
    study = load_study(folder / "study.yaml")
    tables = load_tables(study)
    return repr((study.sha256, tables.specs, tables.published.errata))


def mutate_study(content: bytes, random: Random) -> bytes:
    """Change what is behind the name of a file."""
    return content[:_NAME_BYTES] + mutate_text(content[_NAME_BYTES:], random)
