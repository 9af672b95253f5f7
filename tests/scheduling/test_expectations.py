"""How long a run still takes is learned from what its stages have taken and from the size of its images."""

import math
from dataclasses import replace

import layouts
import pytest

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.cluster.node_pool import Resources
from orchestrator.driver.before_start import NUM_SIZES, tell_sizes, tell_sizes_by_headers
from orchestrator.driver.request import RunRequest
from orchestrator.scheduling.remaining_time import estimate_remaining_s
from orchestrator.scheduling.resources import Node, ResourceRequest
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.sources import inspect
from orchestrator.sources.stamps import SourceStamp
from orchestrator.stages.records.cases import CaseRecord, write_case_record
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.workflow.graph import build_graph
from orchestrator.workflow.keys import StageKind

SMOKE = PRESETS["smoke"]
SMALL = (40, 64, 64)
"""Voxels of an image where the data set has 512 x 512 x 176 or 41."""


@pytest.fixture(scope="module")
def graph():
    study = load_study()
    trainings = study.trainings(only=("T1-infection-fold0",), preset=SMOKE)
    datasets = {dataset.name: dataset for dataset in study.datasets}
    return build_graph(trainings, donors={}, datasets=datasets, preset=SMOKE, phantoms=False)


def schedule_of(graph, *, done=()):
    nodes = [Node(id="node", offered=Resources(cpus=2, gpus=0))]
    return Schedule(graph, done=done, nodes=nodes, needs=Needs(one=ResourceRequest(cpus=1)))


def test_small_images_of_a_data_set_are_not_expected_to_take_as_long_as_large_ones(graph):
    """The prediction of 6 cases of full size takes a miniature's window a quarter of an hour, of these 2 seconds."""
    schedule = schedule_of(graph)
    assert estimate_remaining_s(schedule, now_s=0) > 600
    start = schedule.start_next(0.0)
    while start.stage.kind is not StageKind.INGEST:
        start = schedule.start_next(0.0)
    schedule.finish(start.stage.key, now_s=0.2)
    schedule.expectations.measured(start.stage.key, voxels=40 * 64 * 64)
    assert estimate_remaining_s(schedule, now_s=0.2) == pytest.approx(SMOKE.expected_training_s, abs=10)


def test_a_kind_of_stage_that_has_shown_how_long_it_takes_is_known_better_than_by_its_size(graph):
    expectations = schedule_of(graph).expectations
    first, second, *_ = (
        one for one in graph.values() if one.kind is StageKind.INGEST and "coronacases" in one.key.text
    )
    expectations.measured(first.key, voxels=first.voxels // 100)
    assert expectations.remaining_s(second.key) == pytest.approx(second.expected_s / 100, rel=0.01)
    expectations.finished(first.key, elapsed_s=first.expected_s / 2, attempt=1, node=None)
    assert expectations.remaining_s(second.key) == pytest.approx(second.expected_s / 2)


def test_a_run_that_goes_on_learns_from_the_images_that_are_there(graph, tmp_path):
    storage = open_storage(tmp_path)
    images = [stage for stage in graph.values() if stage.kind is StageKind.INGEST]
    done = {stage.key for stage in graph.values() if stage.kind not in {StageKind.PREDICT, StageKind.SCORE}}
    schedule = schedule_of(graph, done=done)
    before_s = estimate_remaining_s(schedule, now_s=0)
    # One record is damaged, and one is lost.
    storage.write_bytes(run_paths.image_record(images[0].case), b"{")
    for stage in images[2:]:
        record = CaseRecord(sha256="", source=SourceStamp(files=(), sha256=""), size=SMALL)
        write_case_record(storage, run_paths.image_record(stage.case), record)
    assert tell_sizes(schedule, storage)
    # At most 46 million voxels each, and at least 11: a 66th to a 280th.
    assert before_s / 280 < estimate_remaining_s(schedule, now_s=0) < before_s / 66


def test_a_run_expects_what_the_headers_of_its_images_tell_before_the_first_is_made(graph, tmp_path, monkeypatch):
    study, asked = load_study(), []

    def voxels_by_header(case, *, dataset, downloads):
        asked.append((case.dataset, dataset.name, downloads))
        # Of one nothing is known.
        return math.prod(SMALL) if len(asked) > 1 else 0

    monkeypatch.setattr(inspect, "voxels_by_header", voxels_by_header)
    schedule = schedule_of(graph)
    request = RunRequest(
        study=study,
        trainings=(),
        preset=SMOKE,
        seed=0,
        data=str(tmp_path),
        output=str(tmp_path / "run"),
        cluster=LocalCluster(),
    )
    tell_sizes_by_headers(schedule, replace(request, data=None))
    assert estimate_remaining_s(schedule, now_s=0) > 600
    assert not tell_sizes(schedule, open_storage(tmp_path / "run"))
    tell_sizes_by_headers(schedule, request)
    assert estimate_remaining_s(schedule, now_s=0) == pytest.approx(SMOKE.expected_training_s, abs=10)
    assert 1 < len(asked) <= NUM_SIZES
    assert all(of == name and place == tmp_path for of, name, place in asked)


def test_headers_tell_how_large_the_image_of_a_case_is(tmp_path):
    layouts.write_downloads(tmp_path)
    for name, dataset in layouts.DATASETS.items():
        case = Case(dataset=name, name=dataset.case_names[0])
        voxels = math.prod(layouts.ct_voxels().shape)
        assert inspect.voxels_by_header(case, dataset=dataset, downloads=tmp_path) == voxels
        assert inspect.voxels_by_header(case, dataset=dataset, downloads=tmp_path / "nowhere") == 0
