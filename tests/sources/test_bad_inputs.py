"""All commands say the same of each bad input: the doctor, its quick look, a dry run, the start of a run, evaluate."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import layouts
import pytest
from bad_inputs import BAD_INPUTS, MASKS, BadInput

from orchestrator.benchmark.definition import Case, Dataset, EvaluationSet, LabelSet, Model, Training
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import Preset, find_preset
from orchestrator.cli import doctor, evaluate
from orchestrator.cli import run as run_all
from orchestrator.cli.run import options as run_options
from orchestrator.errors import ConfigError, DataError
from orchestrator.sources.case import CaseRequest
from orchestrator.sources.inspect import inspect_downloads

DATASETS = layouts.DATASETS
LABEL_SETS = {label_set.name: label_set for label_set in load_study().label_sets}


@dataclass(frozen=True)
class OneTraining:
    """A study of one training on one case."""

    case: Case
    labels: str
    sha256: str = "of a test"
    path: Path = Path("no tables beside this")
    title: str = "One training"
    models: tuple[Model, ...] = (Model(name="3d"),)
    is_search: bool = True
    groups: tuple[()] = ()
    metrics: tuple[()] = ()

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        return (DATASETS[self.case.dataset],)

    def label_set(self, name: str) -> LabelSet:
        return LABEL_SETS[name]

    def preset(self, name: str) -> Preset:
        return find_preset(name)

    def trainings(self, **_: object) -> tuple[Training, ...]:
        return (
            Training(
                group="one",
                fold=0,
                num_folds=1,
                facets={"model": "3d"},
                label_set=self.labels,
                model=Model(name="3d"),
                plans_from=None,
                train=(self.case,),
                val=(),
                evaluation_sets=(
                    EvaluationSet(
                        name="test",
                        label_set=self.labels,
                        structures=tuple(structure.name for structure in LABEL_SETS[self.labels].structures),
                        cases=(self.case,),
                    ),
                ),
                num_uncapped_cases=1,
            ),
        )

    def donors(self, _: Sequence[Training], **__: object) -> dict[str, Training]:
        return {}

    def patient_leaks(self, _: Sequence[Training]) -> tuple[()]:
        return ()


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch):
    def use(row: BadInput) -> None:
        dataset, case_name, label_set = row.of
        study = OneTraining(Case(dataset=dataset, name=case_name), label_set)
        for module in (doctor, run_options):
            monkeypatch.setattr(module, "load_study", lambda path, **_: study)

    return use


def test_sixty_kinds_of_input_are_tried():
    names = [row.name for row in BAD_INPUTS]
    assert len(set(names)) == len(names) >= 60


def told_by_doctor(data: Path, capsys: pytest.CaptureFixture, *options: str) -> tuple[int, dict[str, list[str]]]:
    code = doctor.main(["--data", str(data), "--json", *options])
    shown = capsys.readouterr()
    assert shown.err == ""
    (finding,) = json.loads(shown.out)
    lines = [doctor.Problem(**problem).line for problem in finding["problems"]]
    return code, {"problem": lines, "warning": finding["warnings"], "note": finding["notes"]}


@pytest.mark.parametrize("row", BAD_INPUTS, ids=lambda row: row.name)
def test_every_command_says_the_same(row, data, only, capsys, tmp_path):
    row.spoil(data)
    only(row)
    code, told = told_by_doctor(data, capsys)
    outcome = "problem" if row.outcome == "untrainable" else row.outcome
    assert code == (1 if outcome == "problem" else 0), told
    assert {name for name in ("problem", "warning") if told[name]} == {outcome} & {"problem", "warning"}, told
    lines = told.get(outcome, [])
    assert len(lines) == (0 if outcome == "nothing" else row.num_lines), told
    for line in lines[:1]:
        assert "\n" not in line
        assert row.file in line.partition(": ")[0]
        assert all(words in line for words in row.words), line
    if outcome == "nothing":
        assert told["note"] == []
    converts_as(row, data, told=told)
    looks_quickly(row, data, capsys, lines=lines, output=tmp_path / "run")


def converts_as(row: BadInput, data: Path, *, told: dict[str, list[str]]) -> None:
    if row.outcome == "problem":
        with pytest.raises(DataError) as raised:
            layouts.convert(data, *row.of)
        assert str(raised.value) == told["problem"][0]
    else:
        converted = layouts.convert(data, *row.of)
        assert list(converted.notes) == told["note"]
        assert list(converted.warnings) == told["warning"]


def looks_quickly(row: BadInput, data: Path, capsys: pytest.CaptureFixture, *, lines: list[str], output: Path) -> None:
    """Compare doctor --quick, a dry run and the start of a run."""
    code, told = told_by_doctor(data, capsys, "--quick")
    is_refused = row.outcome == "problem" and row.in_headers
    assert code == (1 if is_refused else 0), told
    assert told["warning"] == []
    if row.in_headers and row.outcome == "note":
        assert set(lines) & set(told["note"])
    arguments = ["--data", str(data), "--preset", "paper", "--output", str(output)]
    for options in (["--dry-run"], []) if is_refused else (["--dry-run"],):
        assert run_all.main([*options, *arguments]) == (2 if is_refused else 0)
        shown = capsys.readouterr()
        assert [line for line in shown.out.splitlines() if ": found " in line] == told["problem"]
        assert ("nothing was started" in shown.err) == is_refused
    # What headers show is told of the same file, though voxels may tell it in other words.
    assert [line.partition(": found ")[0] for line in told["problem"]] == [
        line.partition(": found ")[0] for line in lines if is_refused
    ]


@pytest.mark.parametrize("row", [row for row in BAD_INPUTS if row.evaluate is not None], ids=lambda row: row.name)
def test_evaluate_refuses_the_masks_that_the_sources_refuse(row, shipped, data, capsys, tmp_path):
    row.spoil(data)
    for folder, source in (("reference", shipped), ("prediction", data)):
        (tmp_path / folder).mkdir()
        shutil.copy(source / MASKS[row.of], tmp_path / folder / "case.nii.gz")
    folders = ["--reference", str(tmp_path / "reference"), "--prediction", str(tmp_path / "prediction")]
    code = evaluate.main([*folders, "--label", "1=1.0"])
    shown = capsys.readouterr()
    refused = [line for line in shown.err.splitlines() if line.startswith("missing: ")]
    if row.evaluate == "scored":
        assert (code, refused) == (0, [])
    else:
        assert code == 1
        (line,) = refused
        assert row.evaluate in line


def requests_of_everything() -> list[CaseRequest]:
    return [
        CaseRequest(dataset=dataset, case_name=name, label_sets=dataset.label_sets)
        for dataset in DATASETS.values()
        for name in dataset.case_names
    ]


@pytest.mark.parametrize("thorough", [False, True])
def test_whole_downloads_have_no_problem(shipped, thorough):
    seen = inspect_downloads(requests_of_everything(), downloads=shipped, thorough=thorough)
    assert (seen.problems, seen.warnings) == ((), ())


def test_all_problems_are_listed_at_once_and_each_once(data):
    by_name = {row.name: row for row in BAD_INPUTS}
    for name in ("no archive", "zip with a password", "truncated image", "unknown label"):
        by_name[name].spoil(data)
    shutil.rmtree(data / "mosmed")
    problems = inspect_downloads(requests_of_everything(), downloads=data, thorough=True, num_threads=2).problems
    # Both cases of COVID-19-CT-Seg lack the one archive: one line.
    assert [Path(problem.path).relative_to(data).as_posix() for problem in problems] == [
        "covid-19-ct-seg/Lung_Mask",
        "covid-19-ct-seg/Infection_Mask.zip",
        "structseg/Lung_GTV/7/data.nii.gz",
        "structseg/Lung_GTV/7/label.nii.gz",
        "mosmed",
    ]


def test_a_label_set_that_a_download_does_not_have_is_a_mistake_of_the_caller(shipped):
    with pytest.raises(ConfigError, match="mosmed: no label set 'lung'; expected one of infection"):
        layouts.convert(shipped, "mosmed", "study_0255", "lung")
