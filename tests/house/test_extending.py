"""What docs/extending.md names is all that an addition takes."""

import csv
import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from kernels import FIELDS, OWN_FIELDS, TITLES, LabelScore
from orchestrator.benchmark.loading import DEFAULT_STUDY, load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.tables import load_tables
from orchestrator.cli import main
from orchestrator.cli.phantoms import main as phantoms
from orchestrator.cli.run import main as run
from orchestrator.errors import ConfigError
from orchestrator.report.reported import Reported
from orchestrator.report.study_tables.tables import write_tables
from orchestrator.results.records import CaseScore
from orchestrator.results.store import to_table
from orchestrator.sources import registry
from orchestrator.sources.ct_layout import CtLayout
from orchestrator.sources.labels import LabelRule
from orchestrator.storage.filesystem import open_storage

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
SNIPPETS = {
    "orchestrator/sources/layouts/clinic.py": "class Clinic",
    "orchestrator/cluster/kinds/lab.py": "class LabCluster",
    "kernels/metrics/more/volume_similarity.py": "METRIC",
}
"""Where the text of the guide with a name goes."""
CONVERT = """
import sys
from pathlib import Path
from orchestrator.sources import layouts
layouts.__path__.append(sys.argv[1])
from orchestrator.benchmark.definition import Case
from orchestrator.benchmark.loading import load_study
from orchestrator.sources.convert import convert_image, convert_labels
(dataset,) = load_study(Path(sys.argv[1], "study.yaml")).datasets
case, where = Case(dataset="ours", name="a"), {"dataset": dataset, "downloads": Path(sys.argv[1])}
image = convert_image(case, label_sets=("kidney",), **where)
labels = convert_labels(case, label_set="kidney", image=image.image, **where)
for part in (image, labels):
    print(*part.notes, *part.warnings, sep="\\n")
"""
STUDY = """
title: Kidneys
label_sets: {kidney: {left: {label: 1, tolerance_mm: 1.0}, right: {label: 2, tolerance_mm: 1.0}}}
datasets: {ours: {title: Ours, source: clinic, label_sets: [kidney]}}
models: {3d: {configuration: 3d_fullres}}
trainings:
  kidney:
    facets: {organ: kidney, clinic: a}
    label_set: kidney
    models: {3d: main}
    train: [ours/other-folds]
    test: {test: ours/fold}
"""


def write_volume(path, voxels):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(voxels)
    image.SetSpacing((4.0, 4.0, 5.0))
    SimpleITK.WriteImage(image, str(path))


def write_study(folder):
    (folder / "study.yaml").write_text(STUDY)
    (folder / "folds.yaml").write_text("ours: {folds: [[a, b], [c, d]]}\n")
    return folder / "study.yaml"


def snippet(word):
    (found,) = [text for text in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if word in text]
    return found


@pytest.mark.parametrize("path", SNIPPETS)
def test_what_the_guide_shows_passes_the_checks_of_the_house_as_it_stands(path):
    command = [sys.executable, "-m", "ruff", "check", "--quiet", "--no-cache", "--stdin-filename", path, "-"]
    text = snippet(SNIPPETS[path])
    # A file begins with what it is.
    shown = subprocess.run(
        command, input=f'"""What it adds."""\n\n{text}', check=False, cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout + shown.stderr == ""


def test_the_layout_of_the_guide_is_found_and_its_pair_is_told_apart(tmp_path):
    (tmp_path / "clinic_layout.py").write_text(snippet("class Clinic"))
    write_study(tmp_path)
    random = np.random.default_rng(0)
    scan = random.normal(-1000, 5, (40, 64, 64)).astype(np.int16)
    scan[:, 10:54, 10:54] = random.normal(40, 15, (40, 44, 44))
    kidneys = np.zeros(scan.shape, np.uint8)
    # In LPS x grows to the patient's left: 1, the left one, is on the wrong side.
    kidneys[10:30, 30:40, 14:22], kidneys[10:30, 30:40, 42:50] = 1, 2
    write_volume(tmp_path / "clinic" / "scans" / "a.nii.gz", scan)
    write_volume(tmp_path / "clinic" / "masks" / "a.nii.gz", kidneys)
    command = [sys.executable, "-c", CONVERT, str(tmp_path)]
    shown = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert shown.stderr == ""
    assert shown.stdout.strip() == (
        f"{tmp_path}/clinic/masks/a.nii.gz: left and right kidney were exchanged, told by their centroids; swapped"
    )


def test_a_study_is_two_files_of_yaml(tmp_path, capsys, monkeypatch):
    # Its layout is a file of its own, as above.
    rules = {"kidney": LabelRule(values={1: 1, 2: 2})}
    monkeypatch.setitem(registry.LAYOUTS, "clinic", type("Clinic", (CtLayout,), {"name": "clinic", "rules": rules}))
    words = ["--study", str(write_study(tmp_path)), "--dry-run"]
    assert run([*words, "--preset", "paper"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["kidney-fold0", "kidney-fold1"]
    for command in (words, words[:2]):
        assert run(command) == 2
        assert "no phantoms are generated of the download clinic" in " ".join(capsys.readouterr().err.split())
    assert phantoms(["--output", str(tmp_path / "phantoms"), *words[:2]]) == 2
    assert not (tmp_path / "phantoms").exists()


def test_a_table_is_the_lines_of_the_guide(tmp_path):
    study = load_study(write_study(tmp_path))
    (lines,) = re.findall(r"```yaml\n(tables:.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "tables.yaml").write_text(lines)
    storage = open_storage(tmp_path / "run")
    trainings = study.trainings(preset=PRESETS["smoke"])
    about = Reported(study=study, trainings=trainings, table=to_table([]), layout=load_tables(study))
    written = write_tables(storage, about, failed={"kidney-fold0"})
    assert "tables/kidneys_by_clinic.md" in written
    assert "Kidneys by clinic" in storage.read_bytes("tables/kidneys_by_clinic.md").decode()


def test_the_default_study_is_named_by_one_file():
    assert ROOT / "splits" / (ROOT / "splits" / "default.txt").read_text().strip() == DEFAULT_STUDY


def test_each_metric_stands_where_the_guide_says():
    definitions = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    assert set(FIELDS) == set(TITLES)
    for name, field in OWN_FIELDS.items():
        assert field in {one.name for one in fields(LabelScore)}
        assert field in {one.name for one in fields(CaseScore)}
        assert name in definitions or name.upper() in definitions


EVALUATE = """
import sys
from types import ModuleType
more = sys.modules["kernels.metrics.more"] = ModuleType("kernels.metrics.more")
more.__path__ = [sys.argv[1]]
from orchestrator.cli import evaluate
sys.exit(evaluate.main(sys.argv[2:]))
"""


def test_the_metric_of_the_guide_is_asked_for_by_its_name_and_ranks_methods(tmp_path):
    """One cube of 4 x 4 x 4 voxels against 4 x 4 x 2: 1 - (64 - 32) / 96."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "volume_similarity.py").write_text(snippet("METRIC"))
    for name, depth in (("reference", 4), ("worse", 1), ("prediction", 2)):
        mask = np.zeros((8, 8, 8), np.uint8)
        mask[2:6, 2:6, 2 : 2 + depth] = 1
        write_volume(tmp_path / name / "a.nii.gz", mask)
    command = [sys.executable, "-c", EVALUATE, str(tmp_path / "metrics"), "--label", "1=1.0", "--workers", "1"]
    command += ["--metrics", "dsc,volume-similarity", "--output", str(tmp_path / "scores.csv")]
    command += ["--reference", str(tmp_path / "reference"), "--leaderboard", str(tmp_path / "ranks.csv")]
    command += [word for name in ("worse", "prediction") for word in ("--prediction", str(tmp_path / name))]
    shown = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert "volume similarity" in shown.stdout
    _, found = csv.DictReader((tmp_path / "scores.csv").read_text().splitlines())
    assert [round(float(found[name]), 9) for name in ("dsc", "volume_similarity")] == [round(2 / 3, 9)] * 2
    places = [
        row
        for row in csv.DictReader((tmp_path / "ranks.csv").read_text().splitlines())
        if row["metric"] == "volume-similarity"
    ]
    assert {Path(row["method"]).name: row["rank_of_mean"] for row in places} == {"prediction": "1", "worse": "2"}


SMALLEST = """
title: Kidneys
label_sets: {kidney: {kidney: {label: 1}}}
datasets: {ours: {nnunet: Dataset001_Ours, label_sets: [kidney], channels: [CT]}}
trainings: {kidney: {train: [ours/all]}}
"""
SCORED = """
import sys
from pathlib import Path
from types import ModuleType
more = sys.modules["kernels.metrics.more"] = ModuleType("kernels.metrics.more")
more.__path__ = [sys.argv[1]]
from orchestrator.benchmark.loading import load_study
print(load_study(Path(sys.argv[2])).metrics)
"""


def test_a_study_asks_for_the_metric_of_the_guide(tmp_path):
    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics" / "volume_similarity.py").write_text(snippet("METRIC"))
    path = tmp_path / "study.yaml"
    path.write_text(f"{SMALLEST}metrics: [volume-similarity]\n")
    (tmp_path / "folds.yaml").write_text("ours: [a, b]\n")
    command = [sys.executable, "-c", SCORED, str(tmp_path / "metrics"), str(path)]
    shown = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert "name='volume-similarity', field='volume_similarity', title='volume similarity'" in shown.stdout
    path.write_text(path.read_text().replace("{train: [", "{facets: {Volume_Similarity: 1}, train: ["))
    shown = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert "the column of volume-similarity is named like a facet" in shown.stderr
    with pytest.raises(ConfigError, match="metrics: unknown metric 'volume-similarity'; expected one of hd95-voxel"):
        load_study(path)


def test_each_command_is_a_file_and_a_line():
    for name in main.COMMANDS:
        assert find_spec(f"orchestrator.cli.{main._MODULES.get(name, name)}") is not None


def test_the_files_that_the_guide_names_are_there():
    named = re.findall(r"`((?:orchestrator|kernels|docs|splits|tests)/[\w/.]*)`", GUIDE)
    written = {path for path in named if "NAME" not in path}
    assert len(written) > 5
    assert [path for path in sorted(written) if not (ROOT / path).exists()] == []


def test_the_glossary_is_short():
    words = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").split("## Words\n")[1].split("\n## ")[0]
    _, *rows = [line for line in words.splitlines() if line.startswith("| ")]
    terms = [term for row in rows for term in row.split(" | ")[0].removeprefix("| ").split(", ")]
    assert 15 <= len(terms) <= 25
