"""Claims about cases whose process dies on a cluster: they are rows that say so, and the others are none the worse."""

import os
import signal
from contextlib import nullcontext
from dataclasses import dataclass

import pytest

from orchestrator.api.scores import _score_on_cluster
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.errors import DataError
from orchestrator.inference.folder import CasePrediction
from orchestrator.inference.predict import _on_cluster
from orchestrator.ray_backend import connect, executor
from orchestrator.ray_backend.executor import map_unordered
from orchestrator.scoring.parallel import DIED


def test_a_task_whose_process_dies_is_tried_again_and_costs_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(executor, "_TRIES", 2)

    # Ray sends the definition along: other processes need not find this file.
    def work(item):
        with (tmp_path / item).open("a") as file:
            file.write("x")
        if item == "deadly" or (item == "unlucky" and (tmp_path / item).stat().st_size == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if item == "bad":
            raise DataError("bad: found nothing")
        return f"{item} is done"

    with connect.connected(LocalCluster(num_cpus=1, num_gpus=0), run=None):
        found = list(map_unordered(work, ["deadly", "a", "unlucky"], name="work", lost="{} is lost".format))
        assert sorted(found) == ["a is done", "deadly is lost", "unlucky is done"]
        assert {path.name: path.stat().st_size for path in tmp_path.iterdir()} == {"deadly": 2, "a": 1, "unlucky": 2}
        with pytest.raises(DataError, match="found nothing"):
            list(map_unordered(work, ["bad"], name="work", lost=str))


class DeadError(Exception):
    """Stands for the death of a process."""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster file, and in place of its Ray this process."""

    def map_here(function, items, *, name, lost):
        for item in items:
            try:
                yield function(item)
            except DeadError:
                yield lost(item)

    monkeypatch.setattr(connect, "connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr(executor, "map_unordered", map_here)
    path = tmp_path / "local.yaml"
    path.write_text("kind: local\nnum_cpus: 1\nnum_gpus: 0\n")
    return path


@dataclass(frozen=True)
class DeadlyFolders:
    """Folders of which the second holds a case that processes die of."""

    folders: tuple[str, ...] = ("first", "second")

    def score(self, case):
        if case == "b" and "second" in self.folders:
            raise DeadError
        return [(folder, case, "scored") for folder in self.folders]

    def of_each(self):
        return [DeadlyFolders((folder,)) for folder in self.folders]

    def unscored(self, case, *, message):
        return [(folder, case, message) for folder in self.folders]


def test_a_case_whose_process_dies_costs_the_scores_of_its_folder_alone(cluster):
    found = list(_score_on_cluster(DeadlyFolders(), ("a", "b"), cluster_file=cluster))
    assert found == [
        [("first", "a", "scored"), ("second", "a", "scored")],
        [("first", "b", "scored"), ("second", "b", DIED)],
    ]


class DeadlyWork:
    """Cases of which the second is deadly."""

    def names(self):
        return ("a", "b")

    def predict(self, name):
        if name == "b":
            raise DeadError
        return CasePrediction(case=name, status="predicted")


def test_a_case_whose_process_dies_costs_its_prediction_alone(cluster):
    predicted, failed = _on_cluster(DeadlyWork(), cluster_file=cluster)
    assert (predicted.status, failed.case, failed.status) == ("predicted", "b", "failed")
    assert "the process that predicted it died" in failed.message
