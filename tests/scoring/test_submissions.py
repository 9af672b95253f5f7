"""Submissions are complete or named, scored once, ranked, and none stops another."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk

import orchestrator
from kernels import score_masks
from orchestrator.cli.main import main
from orchestrator.errors import ConfigError
from orchestrator.scoring import folders as folders_module
from orchestrator.scoring.submissions import submissions_of

FILES_BESIDE = ("data_dictionary.md", "methods.md", "references.bib")
SPACING_ZYX = (2.5, 0.75, 0.5)


def write(path: Path, array, *, spacing_zyx=SPACING_ZYX) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(array, np.uint8))
    image.SetSpacing(spacing_zyx[::-1])
    sitk.WriteImage(image, str(path))


def boxes(number: int, *, error: int = 0):
    array = np.zeros((6, 24, 24), np.uint8)
    array[1:5, 2 + number : 12, 3:12] = 1
    array[1:5, 14:22, 3 + error : 12 + error] = 2
    return array


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """Four cases; the second team makes larger errors than the first."""
    for number in range(4):
        write(tmp_path / f"reference/case{number}.nii.gz", boxes(number))
        write(tmp_path / f"teams/alpha/case{number}.nii.gz", boxes(number, error=1))
        write(tmp_path / f"teams/beta/case{number}.nii.gz", boxes(number, error=4))
    return tmp_path


def submit(folder: Path, *arguments: str, submissions=("teams",), labels=("1-2=1.0",)) -> int:
    command = ["submit", *(str(folder / name) for name in submissions), "--output", str(folder / "out")]
    command += ["--reference", str(folder / "reference")]
    return main([*command, *(part for label in labels for part in ("--label", label)), *arguments])


def table(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "out/report" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_submissions_of_a_folder_are_scored_and_ranked(challenge: Path, capsys):
    assert submit(challenge) == 0
    (first, second) = table(challenge, "leaderboard.csv")
    assert (first["method"], first["rank"], second["method"], second["rank"]) == ("alpha", "1", "beta", "2")
    lists = table(challenge, "ranks.csv")
    for one in (first, second):
        for mean, rank in (("mean_rank", "rank_of_mean"), ("mean_rank_by_case", "rank_of_ranks")):
            ranks = [int(row[rank]) for row in lists if row["method"] == one["method"]]
            assert float(one[mean]) == pytest.approx(sum(ranks) / len(ranks))
    scores = table(challenge, "scores.csv")
    assert len(scores) == 2 * 4 * 2
    (row,) = (r for r in scores if (r["method"], r["case"], r["structure"]) == ("beta", "case3.nii.gz", "2"))
    (_, expected) = score_masks(
        boxes(3), boxes(3, error=4), spacing_mm=SPACING_ZYX, tolerances_mm={1: 1.0, 2: 1.0},
        metrics=("dsc", "nsd", "hd95", "assd"),
    )  # fmt: skip
    assert float(row["dsc"]) == pytest.approx(expected.dsc)
    assert float(row["hd95_mm"]) == pytest.approx(expected.hd95_mm)
    page = (challenge / "out/report/index.html").read_text(encoding="utf-8")
    assert "Whole: 2 submissions, 4 cases." in page
    # Whose scan a case is nobody has said.
    texts = [
        page,
        *((challenge / "out/report" / name).read_text(encoding="utf-8") for name in ("report.md", "tables.tex")),
    ]
    assert all("cases" in text and "patient" not in text and "all folds" not in text for text in texts)
    assert "alpha" in capsys.readouterr().out


def test_labels_without_a_tolerance_are_scored_by_what_does_not_depend_on_it(challenge: Path):
    assert submit(challenge, "--metrics", "dsc", labels=("1-2",)) == 0
    assert {row["tolerance_mm"] for row in table(challenge, "scores.csv")} == {""}
    page = (challenge / "out/report/index.html").read_text(encoding="utf-8")
    assert "each structure of each case by DSC. A label map" in page
    assert "nan mm" not in page


def test_what_the_scores_are_stands_beside_them(challenge: Path):
    assert submit(challenge, "--metrics", "dsc,hd95,masd-voxel") == 0
    files = {name: (challenge / "out/report" / name).read_text(encoding="utf-8") for name in FILES_BESIDE}
    dictionary = files["data_dictionary.md"]
    assert dictionary.count("\n| ") == 1 + len(table(challenge, "scores.csv")[0])
    for column in table(challenge, "scores.csv")[0]:
        assert f"\n| {column} | " in dictionary
    assert "2 submissions were scored on 4 cases" in files["methods.md"]
    assert "- **HD95**: 95 % Hausdorff distance" in files["methods.md"]
    assert "@article" in files["references.bib"]
    page = (challenge / "out/report/index.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in page for name in FILES_BESIDE)


def test_broken_submissions_are_named_and_stop_nobody(challenge: Path, capsys):
    teams = challenge / "teams"
    for name in ("cut", "grid", "floats", "lacks", "text", "nested"):
        for number in range(4):
            write(teams / name / f"case{number}.nii.gz", boxes(number, error=1))
    cut = teams / "cut/case1.nii.gz"
    cut.write_bytes(cut.read_bytes()[:40])
    write(teams / "grid/case1.nii.gz", boxes(1), spacing_zyx=(1, 1, 1))
    sitk.WriteImage(sitk.GetImageFromArray(np.full((6, 24, 24), 0.5, np.float32)), str(teams / "floats/case1.nii.gz"))
    (teams / "lacks/case1.nii.gz").unlink()
    (teams / "text/case1.nii.gz").write_text("we will send it later")
    (teams / "empty").mkdir()
    (teams / "nested/case1.nii.gz").unlink()
    write(teams / "nested/predictions/case1.nii.gz", boxes(1))
    write(teams / "lacks/case9.nii.gz", boxes(1))
    assert submit(challenge) == 1
    said = capsys.readouterr().err
    for name in ("cut", "grid", "floats", "lacks", "text", "nested"):
        assert f"missing: {name}: case1.nii.gz: " in said
    assert "note: empty: 4 of 4 cases have no label map (case0.nii.gz, case1.nii.gz, case2.nii.gz, " in said
    assert "note: lacks: 1 label maps have the name of no case (case9.nii.gz)" in said
    assert "found predictions/case1.nii.gz: name the folder that holds the label maps" in said
    board = {row["method"]: row for row in table(challenge, "leaderboard.csv")}
    assert {name: row["num_missing"] for name, row in board.items() if row["num_missing"] != "0"} == {
        **dict.fromkeys(("cut", "grid", "floats", "lacks", "text", "nested"), "1"), "empty": "4",
    }  # fmt: skip
    assert board["alpha"]["rank"] == "1"
    assert table(challenge, "leaderboard.csv")[-1]["method"] == "empty"
    ranks = {
        row["metric"]: row
        for row in table(challenge, "ranks.csv")
        if (row["method"], row["structure"]) == ("empty", "2")
    }
    worst_mm = max(
        float(r["hd95_mm"]) for r in table(challenge, "scores.csv") if r["structure"] == "2" and r["hd95_mm"]
    )
    for metric, ranked_mean in (("dsc", 0.0), ("hd95", worst_mm)):
        row = ranks[metric]
        assert (row["mean"], row["num_missing"], float(row["ranked_mean"])) == ("", "4", pytest.approx(ranked_mean))
    page = (challenge / "out/report/index.html").read_text(encoding="utf-8")
    assert "Not whole: 9 submissions, 4 cases. 10 label maps of 7 submissions have no scores." in page


@pytest.fixture
def scored(monkeypatch) -> list[tuple[str, int]]:
    """Cases that are scored, with the number of folders."""
    found = []
    score = folders_module.FolderComparison.score
    monkeypatch.setattr(
        folders_module.FolderComparison,
        "score",
        lambda self, case: found.append((case, len(self.predictions))) or score(self, case),
    )
    return found


def test_what_is_scored_is_not_scored_again(challenge: Path, scored):
    assert submit(challenge) == 0
    before = table(challenge, "scores.csv")
    assert len(scored) == 4
    scored.clear()
    assert submit(challenge) == 0
    assert scored == []
    assert table(challenge, "scores.csv") == before
    # One file is another, one team is new, and one has gone.
    write(challenge / "teams/alpha/case2.nii.gz", boxes(2, error=2))
    (challenge / "teams/beta").rename(challenge / "teams/gamma")
    assert submit(challenge) == 0
    assert sorted(scored) == [(f"case{n}.nii.gz", 2 if n == 2 else 1) for n in range(4)]
    assert {row["method"] for row in table(challenge, "scores.csv")} == {"alpha", "gamma"}
    scored.clear()
    # Other tolerances are other scores, and so is another reference.
    assert submit(challenge, labels=("1-2=2.0",)) == 0
    assert len(scored) == 4
    scored.clear()
    write(challenge / "reference/case0.nii.gz", boxes(1))
    assert submit(challenge, labels=("1-2=2.0",)) == 0
    assert scored == [("case0.nii.gz", 2)]


def test_a_call_that_was_stopped_goes_on_and_damaged_scores_are_made_again(challenge: Path, scored):
    assert submit(challenge) == 0
    before = (challenge / "out/report/scores.csv").read_bytes()
    parts = challenge / "out/submissions/labels/reference"
    (parts / "case1.nii.gz.parquet").unlink()
    damaged = parts / "case3.nii.gz.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 3] ^= 1
    damaged.write_bytes(content)
    scored.clear()
    assert submit(challenge) == 0
    assert {case for case, _ in scored} == {"case1.nii.gz", "case3.nii.gz"}
    assert (challenge / "out/report/scores.csv").read_bytes() == before


def test_a_submission_that_cannot_be_read_is_tried_again(challenge: Path, scored):
    whole = (challenge / "teams/beta/case1.nii.gz").read_bytes()
    (challenge / "teams/beta/case1.nii.gz").write_bytes(b"")
    assert submit(challenge) == 1
    scored.clear()
    assert submit(challenge) == 1
    assert scored == [("case1.nii.gz", 1)]
    (challenge / "teams/beta/case1.nii.gz").write_bytes(whole)
    assert submit(challenge) == 0


def test_a_process_that_dies_costs_the_submission_that_killed_it(challenge: Path):
    from orchestrator.scoring.parallel import score_in_processes

    unusable = [one for found in score_in_processes(Deadly(str(challenge)), ["a", "b"], num_workers=2) for one in found]
    assert sorted(unusable) == ["a by alpha", "a by beta", "b by alpha", "b by beta: died"]


class Deadly:
    """Dies of case b of beta."""

    def __init__(self, folder: str, *, methods=("alpha", "beta")) -> None:
        self.folder, self.methods = folder, methods

    def score(self, case):
        if case == "b" and "beta" in self.methods:
            os.abort()
        return [f"{case} by {method}" for method in self.methods]

    def of_each(self):
        return [Deadly(self.folder, methods=(method,)) for method in self.methods]

    def unscored(self, case, *, message):
        assert "died" in message
        return [f"{case} by {method}: died" for method in self.methods]


def test_labels_up_to_255_are_scored(tmp_path: Path):
    array = np.zeros((4, 20, 80), np.uint8)
    array[1:3].reshape(2, -1)[:, : 255 * 5] = np.repeat(np.arange(1, 256), 5)
    write(tmp_path / "reference/a.nii.gz", array)
    write(tmp_path / "teams/alpha/a.nii.gz", array)
    assert submit(tmp_path, "--metrics", "dsc,nsd", labels=("1-255=1.0",)) == 0
    scores = table(tmp_path, "scores.csv")
    assert len(scores) == 255
    assert {row["dsc"] for row in scores} == {"1"}


def test_what_does_not_fit_is_refused(challenge: Path, capsys):
    assert submit(challenge, submissions=("nothing",)) == 2
    assert submit(challenge, submissions=("teams/alpha",)) == 2
    assert "found no folder in it" in capsys.readouterr().err
    assert submit(challenge, labels=("2-1=1.0",)) == 2
    assert submit(challenge, labels=("1-2=1.0", "2=1.0")) == 2
    assert submit(challenge, "--label-set", "lung") == 2
    assert main(["submit", f"a={challenge}/teams/alpha", "--output", str(challenge / "none")]) == 2
    assert "no run has been started there" in capsys.readouterr().err


def test_names_of_methods(challenge: Path):
    teams = challenge / "teams"
    (teams / "__MACOSX").mkdir()
    (teams / ".git").mkdir()
    assert [one.name for one in submissions_of([str(teams), f"ours={teams}/alpha"])] == ["alpha", "beta", "ours"]
    with pytest.raises(ConfigError, match="alpha: found twice"):
        submissions_of([str(teams), f"alpha={teams}/beta"])
    with pytest.raises(ConfigError, match="expected METHOD=FOLDER"):
        submissions_of([f"={teams}"])


def test_a_program_gets_what_the_command_shows(challenge: Path):
    found = orchestrator.submit(
        [f"x={challenge}/teams/alpha"], output=challenge / "out", reference=challenge / "reference",
        tolerances_mm={1: 1.0}, metrics=("dsc",),
    )  # fmt: skip
    assert found.board is not None
    assert found.board.standings[0].method == "x"
    assert found.unusable == ()
    ranks = json.loads((challenge / "out/report/summary.json").read_text())["ranks"]
    assert ranks[0]["num_cases"] == 4


def test_label_maps_may_have_other_endings_and_links_out_of_the_folder_are_named(challenge: Path, capsys):
    for number, ending in enumerate((".nii", ".mha", ".nrrd")):
        path = challenge / f"teams/alpha/case{number}.nii.gz"
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path.with_name(f"case{number}{ending}")))
        path.unlink()
    (challenge / "teams/beta/case0.nii.gz").unlink()
    (challenge / "teams/beta/case0.nii.gz").symlink_to(challenge / "reference/case0.nii.gz")
    assert submit(challenge) == 0
    assert [row["method"] for row in table(challenge, "leaderboard.csv")] == ["alpha", "beta"]
    assert {row["status"] for row in table(challenge, "scores.csv")} == {"scored"}
    said = " ".join(capsys.readouterr().err.split())
    assert "alpha" not in said
    assert "beta: 1 label maps are links to files outside of the folder (case0.nii.gz)" in said


def test_two_label_maps_of_a_case_are_named_and_scored_neither(challenge: Path, capsys):
    for old, same in ((".nii", ".nii.gz"), (".nii", ".mha")):
        team = challenge / "teams" / f"with{same}"
        for number in range(4):
            write(team / f"case{number}{same}", boxes(number))
        write(team / f"case1{old}", boxes(1, error=5))
    assert submit(challenge) == 1
    said = capsys.readouterr().err
    for name, there in (("with.nii.gz", "case1.nii.gz, case1.nii"), ("with.mha", "case1.nii, case1.mha")):
        assert f"missing: {name}: case1.nii.gz: 2 label maps of this case: {there}; expected one" in said
    assert said.count("missing: ") == 2
    for name in ("with.nii.gz/case1.nii", "with.mha/case1.nii"):
        (challenge / "teams" / name).unlink()
    assert submit(challenge) == 0


def test_label_maps_with_other_values_say_which(challenge: Path):
    for number in range(4):
        write(challenge / f"teams/beta/case{number}.nii.gz", 127 * boxes(number))
    assert submit(challenge) == 0
    messages = {(row["method"], row["message"]) for row in table(challenge, "scores.csv")}
    assert messages == {("alpha", ""), ("beta", "holds 127, 254 and no label that is scored")}


def test_cases_of_one_patient_count_once(challenge: Path, capsys):
    path = challenge / "patients.csv"
    path.write_text("case,patient\ncase0,p\ncase1.nii.gz,p\ncase2,q\ncase3,r\n")
    assert submit(challenge, "--patients", str(path)) == 0
    assert "of 3 patients;" in " ".join(capsys.readouterr().out.split())
    page = (challenge / "out/report/index.html").read_text(encoding="utf-8")
    assert "Whole: 2 submissions, 4 cases of 3 patients." in page
    assert "n = 3 patients." in page
    path.write_text("case,patient\ncase0,p\ncase1,p\ncase2,q\n")
    assert submit(challenge, "--patients", str(path)) == 2
    assert "no patient for case case3.nii.gz; expected one for every reference" in capsys.readouterr().err
    path.write_text("case,patient\ncase0,Müller\n", encoding="latin-1")
    assert submit(challenge, "--patients", str(path)) == 2
    path.unlink()
    assert submit(challenge, "--patients", str(path)) == 2
    said = capsys.readouterr().err
    assert said.count(f"error: {path}: cannot be read (") == said.count("expected CSV in UTF-8") == 2


def test_nobody_is_first_where_nobody_has_scores(challenge: Path, capsys):
    assert submit(challenge) == 0
    for path in (challenge / "teams").rglob("*.nii.gz"):
        path.write_bytes(b"")
    capsys.readouterr()
    assert submit(challenge) == 1
    assert "rank" not in capsys.readouterr().out
    report = challenge / "out/report"
    assert "No label map has scores, so that there are no ranks." in (report / "index.html").read_text(encoding="utf-8")
    assert not (report / "leaderboard.csv").exists()
    assert not (report / "ranks.csv").exists()
    assert json.loads((report / "summary.json").read_text())["ranks"] == []


def test_a_name_that_spreadsheets_calculate_is_shown_as_text(challenge: Path, capsys):
    (challenge / "teams/alpha").rename(challenge / "teams/=1+1")
    assert submit(challenge) == 0
    assert "note: '=1+1: shown with ' before its name" in capsys.readouterr().err
    for name in ("leaderboard.csv", "ranks.csv", "scores.csv"):
        assert {row["method"] for row in table(challenge, name)} == {"'=1+1", "beta"}
    assert [one.name for one in submissions_of([f"-x={challenge}/teams/beta"])] == ["'-x"]


def test_a_link_to_itself_is_a_label_map_without_scores(challenge: Path, capsys):
    own = challenge / "teams/beta/case0.nii.gz"
    own.unlink()
    own.symlink_to(own.name)
    assert submit(challenge) == 1
    said = capsys.readouterr().err
    assert said.count("missing: beta: case0.nii.gz: ") == said.count("missing: ") == 1
    assert table(challenge, "leaderboard.csv")[0]["method"] == "alpha"


def test_a_number_that_there_is_not_is_an_empty_cell(challenge: Path):
    (challenge / "teams/beta/case0.nii.gz").unlink()
    assert submit(challenge) == 1
    (row, _) = (one for one in table(challenge, "scores.csv") if one["status"] == "missing")
    assert (row["dsc"], row["hd95_mm"], row["tolerance_mm"]) == ("", "", "1")
    scores = pq.read_table(challenge / "out/report/scores.parquet")
    assert scores["dsc"].null_count == scores["hd95_mm"].null_count == 2
