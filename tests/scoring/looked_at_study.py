"""A study of two networks in five folds whose scores a test draws, and a cluster on which nothing is carried out."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
from fake_backend import FakeBackend

from bench.report.scores import drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.driver.request import RunRequest
from orchestrator.results.records import ScoreStatus
from orchestrator.results.store import ResultsStore
from orchestrator.scheduling.ended import Done, Failed, FailureKind
from orchestrator.storage.filesystem import open_storage
from orchestrator.workflow.keys import StageKind

FOLDS, PATIENTS = 5, 40
STUDY = """
title: Two networks
label_sets:
  organs:
    organ: {label: 1, tolerance_mm: 2.0}
datasets:
  clinic: {title: Clinic, nnunet: Dataset901_Clinic, channels: [CT], label_sets: [organs], slices: 20}
models:
  first: {}
  second: {planner: nnUNetPlannerResEncM, suffix: -second}
trainings:
  organ: {label_set: organs, train: [clinic/other-folds], val: [clinic/fold]}
presets:
  tiny: {like: smoke, cases: {train: 100, val: 100}}
"""


def request_for(folder, output, **changes):
    """Return what a run of the study is asked for; its files are written to a folder."""
    folder.mkdir(exist_ok=True)
    folds = [[f"case_{number:02d}" for number in range(PATIENTS) if number % FOLDS == fold] for fold in range(FOLDS)]
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    (folder / "folds.yaml").write_text(f"clinic: {{folds: {folds}}}\n".replace("'", ""), encoding="utf-8")
    study = load_study(folder / "study.yaml")
    preset = study.preset("tiny")
    known = {
        "study": study,
        "trainings": study.trainings(preset=preset),
        "preset": preset,
        "seed": 0,
        "data": None,
        "output": str(output),
        "cluster": LocalCluster(),
        "until_decided": True,
    }
    return RunRequest(**{**known, **changes})


def rows_of(training, *, study, gain):
    """Return rows of a training: a patient has the same score in both networks but for a gain and some noise."""
    rows = []
    for row in drawn_rows(training, study=study):
        random = np.random.default_rng([int(row.case.removeprefix("case_")), training.model.name == "second"])
        common = np.random.default_rng(int(row.case.removeprefix("case_"))).uniform(0.6, 0.9)
        dsc, nsd = common + random.normal(0, 0.01, 2) + gain * (training.model.name == "second")
        score = replace(row.score, status=ScoreStatus.SCORED, dsc=float(dsc), nsd=float(nsd), hd95_mm=1.0, assd_mm=1.0)
        rows.append(replace(row, score=score, provenance=replace(row.provenance, preset="tiny")))
    return rows


class ScoringBackend(FakeBackend):
    """Whatever is started is done at the next look, the latest first if asked for; a score commits drawn rows."""

    def __init__(self, request, *, gain, stops_after=None, fails=(), reverses=False):
        super().__init__()
        self.request = request
        self.gain = gain
        self.stops_after = stops_after
        self.fails = fails
        self.reverses = reverses

    @property
    def trained(self):
        """Trainings of which anything at all was started."""
        parts = [text.split()[1] for text, *_ in self.started]
        return {part for part in parts if part.startswith("organ")}

    def wait(self, *, timeout_s):
        for key in self.running:
            if key.training in self.fails and key.kind is StageKind.TRAIN:
                self.ends[key] = Failed.of(ValueError("diverged"), kind=FailureKind.DETERMINISTIC)
                continue
            if key.kind is StageKind.SCORE:
                self._commit(key.training)
            self.ends[key] = Done(node="node")
        if self.reverses:
            self.running.reverse()
        return super().wait(timeout_s=timeout_s)

    def _commit(self, training_id):
        store = ResultsStore(open_storage(self.request.output))
        if self.stops_after is not None and len(store.finished()) >= self.stops_after:
            raise KeyboardInterrupt
        (training,) = (one for one in self.request.trainings if one.id == training_id)
        store.commit(training_id, rows_of(training, study=self.request.study, gain=self.gain))

    @contextmanager
    def connect(self, cluster, name):
        """Stand for a cluster."""
        yield self
