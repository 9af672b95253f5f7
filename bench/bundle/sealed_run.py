"""A run with drawn scores, whose messages and events tell of a machine, and its bundle."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import yaml

from bench.report.scores import drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.bundle.derived import Derived, derived_from
from orchestrator.bundle.seal import Sealed, write_bundle
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver.claim import claim_output
from orchestrator.driver.request import RunRequest, identity_of
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.sources.nnunet_raw.survey import Describer
from orchestrator.storage.filesystem import open_storage

EVENTS: tuple[dict[str, object], ...] = (
    {"kind": "run_started", "trainings": [], "host": "secret-host"},
    {"kind": "stage_started", "stage": "train lesion-fold0", "stage_kind": "train", "attempt": 1},
    {"kind": "training_epoch", "training": "lesion-fold0", "epoch": 0, "num_epochs": 1, "train_loss": -0.1,
     "val_loss": -0.2, "pseudo_dice": 0.5, "elapsed_s": 3.0, "host": "secret-host"},
    {"kind": "stage_finished", "stage": "train lesion-fold0", "stage_kind": "train", "elapsed_s": 4.0},
)  # fmt: skip


def written_study(folder: Path) -> Path:
    """Write a study of two models on 12 cases in 3 folds; returns its file."""
    folder.mkdir(parents=True, exist_ok=True)
    cases = [f"case_{number:02d}" for number in range(12)]
    study = {
        "title": "Lesions, twice",
        "label_sets": {"lesion": {"lesion": {"label": 1, "tolerance_mm": 2.0}}},
        "datasets": {"clinic": {"nnunet": "Dataset901_Clinic", "channels": ["CT"], "label_sets": ["lesion"]}},
        "models": {"3d": {}, "2d": {"configuration": "2d", "suffix": "-2d"}},
        "trainings": {"lesion": {"train": ["clinic/other-folds"], "val": ["clinic/fold"]}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    folds = {"clinic": {"folds": [cases[i::3] for i in range(3)]}}
    (folder / "folds.yaml").write_text(yaml.safe_dump(folds))
    return folder / "study.yaml"


def sealed_run(folder: Path, *, secret: str = "/secret-home/run", data: str | None = None) -> RunRequest:
    """Write such a run; returns what it was asked for.

    With `data`, a folder or bucket, `folder` holds a study of data sets in nnU-Net's layout there.
    """
    path = folder / "study" / "study.yaml"
    study = load_study(path, describe=Describer(data)) if data else load_study(written_study(path.parent))
    preset = study.preset("paper")
    trainings = study.trainings(matrix="all", preset=preset)
    request = RunRequest(
        study=study,
        trainings=trainings,
        preset=preset,
        seed=0,
        data=data,
        output=str(folder / "run"),
        cluster=LocalCluster(),
    )
    storage = open_storage(request.output)
    claim_output(storage, identity=identity_of(request), trainings=[training.id for training in trainings])
    for training in trainings:
        rows = [
            replace(row, provenance=replace(row.provenance, phantoms=data is None))
            for row in drawn_rows(training, study=study)
        ]
        for place, row in enumerate(rows):
            if row.score.status is ScoreStatus.MISSING or place == 0:
                message = f"{folder}/run/predictions/x.nii.gz: no NIfTI file, seen by {secret}/y at 10.1.2.3"
                rows[place] = replace(row, score=replace(row.score, message=message))
        ResultsStore(storage).commit(training.id, rows)
    lines = [json.dumps({"time": f"2026-11-0{i + 1}T10:00:00+00:00", **event}) for i, event in enumerate(EVENTS)]
    storage.write_bytes("events/20261101T100000.000000-00000.jsonl", ("\n".join(lines) + "\n").encode())
    return request


def sealed(folder: Path, *, license_url: str = "") -> tuple[Path, Sealed]:
    """Write such a run and its bundle."""
    request = sealed_run(folder)
    target = folder / "sealed.zip"
    return target, write_bundle(request, open_storage(request.output), target=target, license_url=license_url)


def remembered() -> Callable[[dict[str, bytes]], Derived]:
    """Return a derivation that does not repeat what it has calculated of the same inputs."""
    known: dict[tuple[tuple[str, bytes], ...], Derived] = {}

    def derive(inputs: dict[str, bytes]) -> Derived:
        key = tuple(sorted(inputs.items()))
        if key not in known:
            known[key] = derived_from(inputs)
        return known[key]

    return derive
