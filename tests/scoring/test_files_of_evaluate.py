"""Claims about the files of `evaluate`: which are the label maps of a case, and whether rows can be written."""

import pytest
from test_evaluate import evaluate, folders, random_map, rows, write  # noqa: F401 - a fixture

from orchestrator.results.records import CaseScore, ScoreStatus
from orchestrator.scoring.folder_scores import FolderScores
from orchestrator.scoring.folders import FolderScore


def test_a_name_that_another_system_writes_with_other_bytes_is_the_same(tmp_path, capsys):
    write(tmp_path / "reference" / "f\u00e4ll.nii.gz", random_map(0))
    write(tmp_path / "first" / "fa\u0308ll.nii.gz", random_map(0))
    assert evaluate(tmp_path) == 0
    assert "no reference has this name" not in capsys.readouterr().err
    assert {row["dsc"] for row in rows(tmp_path)} == {"1"}


def test_two_files_whose_names_are_spelled_differently_are_scored_neither_and_links_to_one_are_one(tmp_path, capsys):
    for name in ("f\u00e4ll", "gef\u00e4\u00df"):
        write(tmp_path / f"reference/{name}.nii.gz", random_map(0))
        write(tmp_path / f"first/{name}.nii.gz", random_map(0))
    write(tmp_path / "first/fa\u0308ll.nii.gz", random_map(1))
    (tmp_path / "first/gefa\u0308\u00df.nii.gz").symlink_to(tmp_path / "first/gef\u00e4\u00df.nii.gz")
    assert evaluate(tmp_path, labels=("1=1.0",)) == 1
    assert {row["case"]: row["dsc"] for row in rows(tmp_path)} == {
        "f\u00e4ll.nii.gz": "",
        "gef\u00e4\u00df.nii.gz": "1",
    }
    assert "2 label maps of this case: f\u00e4ll.nii.gz, fa\u0308ll.nii.gz; expected one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "shown"), [("n\n1", r"'n\n1.nii.gz'"), ("e\x1b[31m", r"'e\x1b[31m.nii.gz'"), ("a\\b", "b.nii")]
)
def test_references_with_names_that_nobody_can_read_are_refused_and_not_left_out(tmp_path, capsys, name, shown):
    for case in ("plain", name):
        write(tmp_path / f"reference/{case}.nii.gz", random_map(0))
        write(tmp_path / f"first/{case}.nii.gz", random_map(0))
    (tmp_path / "reference/notes\n.txt").touch()
    assert evaluate(tmp_path) == 2
    said = capsys.readouterr().err
    assert "1 label maps with a backslash or a control character in their names, the first " in said
    assert shown in said
    (tmp_path / f"reference/{name}.nii.gz").unlink()
    assert evaluate(tmp_path, labels=("1=1.0",)) == 0


def test_a_file_that_cannot_be_written_is_told_before_anything_is_scored(folders, capsys):  # noqa: F811
    (folders / "file").touch()
    (folders / "folder.csv").mkdir()
    for option in ("--output", "--leaderboard"):
        for place, code, words in (("file/x.csv", 1, "cannot write"), ("folder.csv", 2, "a folder; expected the name")):
            assert evaluate(folders, option, str(folders / place), predictions=("first", "second")) == code
            captured = capsys.readouterr()
            assert captured.out == ""
            assert words in captured.err
    assert evaluate(folders, "--output", str(folders / "new/scores.csv")) == 0
    assert [path.name for path in (folders / "new").iterdir()] == ["scores.csv"]


class CountedLabel(str):
    """A name of a structure that tells how often it was asked for."""

    num_asked = 0

    def isdecimal(self):
        CountedLabel.num_asked += 1
        return super().isdecimal()


def test_time_for_a_table_grows_as_the_rows_do():
    scores = [
        CaseScore(
            structure=CountedLabel(label),
            status=ScoreStatus.SCORED,
            dsc=0.5,
            nsd=0.5,
            tolerance_mm=1.0,
            spacing_mm=(1.0, 1.0, 1.0),
            num_reference_voxels=1,
            num_predicted_voxels=1,
            message="",
        )
        for label in range(1, 41)
    ]
    rows = tuple(FolderScore(prediction="first", case="a", score=score) for score in scores)
    table = FolderScores(rows=rows, metrics=("dsc",), without_reference=()).to_arrow()
    assert table["label"].to_pylist() == list(range(1, 41))
    assert CountedLabel.num_asked <= 2 * len(rows)
