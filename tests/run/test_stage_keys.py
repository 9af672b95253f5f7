"""A stage is known by a value; its text, of events and files, is made and read in one place."""

import pickle
import re
from pathlib import Path

import pytest

from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.workflow.graph import build_graph
from orchestrator.workflow.keys import StageKey, StageKind

ROOT = Path(__file__).parents[2]
CASE = Case(dataset="liver", name="case_3")
TEXTS = {
    "download liver-2024": StageKey(kind=StageKind.DOWNLOAD, download="liver-2024"),
    "ingest liver/case_3": StageKey(kind=StageKind.INGEST, case=CASE),
    "labels liver/case_3 organ": StageKey(kind=StageKind.LABELS, case=CASE, label_set="organ"),
    "fingerprint liver/case_3 organ": StageKey(kind=StageKind.FINGERPRINT, case=CASE, label_set="organ"),
    "plan a-fold0": StageKey(kind=StageKind.PLAN, training="a-fold0"),
    "preprocess a-fold0 liver/case_3": StageKey(kind=StageKind.PREPROCESS, training="a-fold0", case=CASE),
    "train a-fold0": StageKey(kind=StageKind.TRAIN, training="a-fold0"),
    "predict a-fold0": StageKey(kind=StageKind.PREDICT, training="a-fold0"),
    "score a-fold0": StageKey(kind=StageKind.SCORE, training="a-fold0"),
}
"""As runs of earlier versions have them in their events."""


@pytest.mark.parametrize("text", TEXTS)
def test_the_text_of_a_key_is_read_as_that_key(text):
    key = TEXTS[text]
    assert (key.text, str(key), f"{key}") == (text, text, text)
    assert StageKey.parse(text) == key == pickle.loads(pickle.dumps(key))
    assert hash(StageKey.parse(text)) == hash(key)


@pytest.mark.parametrize("text", ["", "train", "train ", "fit a", "labels liver/case_3", "ingest liver", "ingest /a"])
def test_what_is_no_text_of_a_key_is_none(text):
    assert StageKey.parse(text) is None


def test_a_key_has_what_its_kind_has_and_nothing_else():
    with pytest.raises(ValueError, match="expected training"):
        StageKey(kind=StageKind.TRAIN)
    with pytest.raises(ValueError, match="expected case"):
        StageKey(kind=StageKind.INGEST, case=CASE, training="a")


def test_every_key_of_the_benchmark_comes_back_from_its_text():
    study, preset = load_study(), PRESETS["smoke"]
    trainings = study.trainings(preset=preset)
    graph = build_graph(
        trainings,
        donors=study.donors(trainings, preset=preset),
        datasets={dataset.name: dataset for dataset in study.datasets},
        preset=preset,
        phantoms=True,
    )
    assert {StageKey.parse(key.text) for key in graph} == set(graph)


def test_no_other_file_makes_or_takes_apart_the_text_of_a_key():
    kinds = "|".join(kind.value for kind in StageKind)
    made = re.compile(rf'f"({kinds}) \{{|(removeprefix|startswith)\("({kinds}) ?"\)|StageKind\.\w+(\.value)?\}} ')
    files = [path for path in (ROOT / "orchestrator").rglob("*.py") if path.parent.name not in {"workflow", "layouts"}]
    assert len(files) > 200
    found = {str(path.relative_to(ROOT)): made.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {path: matches for path, matches in found.items() if matches} == {}
