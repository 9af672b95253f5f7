"""The paragraph on methods says what was done and nothing else, and its words are defined wherever it stands."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from test_further_metrics import SIMILARITY, STUDY
from test_report import MODELS, text_of

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import TableLayout, TableSpec, load_tables
from orchestrator.report.answers import answer
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.methods import evaluated_weights, methods
from orchestrator.report.write import write_report
from orchestrator.results.curves import CurveRow, write_curve
from orchestrator.results.store import to_table
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage

FOLDS = ("T1-infection-fold0", "T1-infection-2d-fold0")
TRAININGS = STUDY.trainings(matrix="all", only=FOLDS, preset=PRESETS["paper"])
PLAIN = TableLayout(specs=(TableSpec(name="x", title="x"),), metrics=(SIMILARITY,))


def reported(trainings=TRAININGS, *, layout=PLAIN):
    drawn = all_drawn_rows(trainings, study=STUDY)
    rows = [replace(row, further={SIMILARITY.field: 0.9}) for some in drawn.values() for row in some]
    return Reported(study=STUDY, trainings=tuple(trainings), table=to_table(rows), layout=layout)


def test_the_weights_are_those_that_were_scored():
    final, other = TRAININGS
    best = replace(other, chosen_by="nsd")
    assert evaluated_weights([final, other]) == "final checkpoints"
    of_best = "the weights of the epoch with the best NSD of validation cases, among those looked at"
    assert evaluated_weights([best]) == of_best
    assert evaluated_weights([final, final, best]) == f"final checkpoints (2) and {of_best} (1)"
    about = reported([best])
    said = methods(scores_frame(about), reported=about)
    assert f"; {of_best} were evaluated. They are" in said
    assert "final checkpoint" not in said


def test_the_caption_of_looks_at_validation_cases_names_the_same_weights(tmp_path: Path):
    about = reported([replace(TRAININGS[0], chosen_by="nsd")])
    storage = open_storage(str(tmp_path))
    rows = [CurveRow(epoch=epoch, case="a", structure="infection", dsc=0.5, nsd=0.5) for epoch in (1, 2)]
    write_curve(storage, run_paths.validation_curve(about.trainings[0].id), rows)
    page = text_of((tmp_path / write_report(storage, reported=about, failures={})).read_text())
    assert "What is evaluated: the weights of the epoch with the best NSD" in page
    assert "inal checkpoint" not in page


def test_a_test_is_named_where_there_was_one():
    about = reported()
    frame = scores_frame(about)
    assert "Wilcoxon" not in methods(frame, reported=about)
    found = answer(MODELS, frame, trainings=about.trainings)
    assert found.num_tests
    assert "differences were tested with Wilcoxon's" in methods(frame, reported=about, answers=(found,))
    untested = replace(found, differences=())
    assert "Wilcoxon" not in methods(frame, reported=about, answers=(untested,))


@pytest.mark.parametrize("is_compared", [True, False])
def test_the_words_are_defined_on_the_page_and_beside_it(tmp_path: Path, is_compared):
    layout = replace(load_tables(STUDY), comparisons=(MODELS,) if is_compared else ())
    write_report(open_storage(str(tmp_path)), reported=reported(layout=layout), failures={})
    texts = {name: (tmp_path / "report" / name).read_text() for name in ("index.html", "report.md", "methods.md")}
    of_page = re.findall(r"<li><strong>(.*?)</strong>: (.*?)</li>", texts.pop("index.html"))
    words = [word for word, _ in of_page]
    expected = ["DSC", "NSD", "HD95", "ASSD", "volume error", "volume similarity", "empty and missing masks"]
    assert words == [*expected, "95 % interval", *(["p"] if is_compared else [])]
    for text in texts.values():
        assert re.findall(r"^- \*\*(.*?)\*\*: ", text, flags=re.MULTILINE)[-len(words) :] == words
        assert "above 0 where too much is predicted" in text
        assert "the larger of both directions" in text
        assert ", volume similarity and average symmetric" in text


OF_ENSEMBLES = """title: Two networks
label_sets: {organs: {liver: {label: 1}}}
datasets: {ct: {nnunet: Dataset001_CT, channels: [CT], label_sets: [organs], folds: {number: 2}}}
models: {3d: {}, 2d: {configuration: 2d, suffix: -2d}}
trainings: {organs: {train: [ct/other-folds], val: [ct/fold]}}
ensembles:
  both: {members: [organs*]}
  best: {members: [organs*], choose: 1}
"""


@pytest.fixture
def of_ensembles(tmp_path: Path):
    (tmp_path / "study.yaml").write_text(OF_ENSEMBLES)
    (tmp_path / "folds.yaml").write_text(f"ct: [{', '.join(f'c{number:02d}' for number in range(16))}]")
    study = load_study(tmp_path / "study.yaml")

    def about(*only):
        trainings = study.trainings(preset=PRESETS["paper"], only=only)
        rows = [row for some in all_drawn_rows(trainings, study=study).values() for row in some]
        hour = [replace(row, provenance=replace(row.provenance, train_elapsed_s=3600.0)) for row in rows]
        return Reported(study=study, trainings=trainings, table=to_table(hour), layout=load_tables(study))

    return about


def test_ensembles_alone_are_reported_as_of_the_models_that_were_trained_for_them(tmp_path: Path, of_ensembles):
    text = text_of(
        (tmp_path / write_report(open_storage(tmp_path), reported=of_ensembles("model=both"), failures={})).read_text()
    )
    assert "4 models of the study “Two networks” were trained" in text
    assert "They are 2 of 2 folds each of organs, organs-2d; each was fitted to 8 cases of 8 patients." in text
    assert "2 ensembles average the probabilities of such models." in text


@pytest.mark.parametrize(
    ("only", "num_models", "hours"),
    [
        (("organs", "organs-2d"), 4, "in 4.00 hours of training in all; final"),
        # What an ensemble tells of its members that have scores is known from them.
        (("organs", "organs-2d", "model=both"), 4, "in 4.00 hours of training in all; final"),
        (("model=both",), 4, "in 2.00 hours of training in all; final"),
        # Of one member it is told twice, or the time of the models that were not chosen not at all.
        (("organs", "model=both"), 4, "seed 0; final"),
        (("model=best",), 4, "seed 0; final"),
    ],
)
def test_models_are_counted_once_and_hours_told_where_they_are_known(of_ensembles, only, num_models, hours):
    about = of_ensembles(*only)
    said = methods(scores_frame(about), reported=about)
    assert said.startswith(f"{num_models} models of the study")
    assert hours in said
