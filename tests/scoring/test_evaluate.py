"""Claims about the command that scores folders of label maps."""

import csv
import math
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import SimpleITK as sitk

import orchestrator
from kernels import score_masks
from orchestrator.cli.evaluate import main
from orchestrator.images import stored_voxels
from orchestrator.scoring.folders import summarise
from orchestrator.scoring.parallel import score_in_processes

SPACING_ZYX = (2.5, 0.75, 0.5)
ALL_METRICS = "dsc,nsd,hd95,assd"


def write(path, array, *, spacing_zyx=SPACING_ZYX):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(np.asarray(array, np.uint8))
    image.SetSpacing(spacing_zyx[::-1])
    sitk.WriteImage(image, str(path))


def random_map(seed):
    random = np.random.default_rng(seed)
    return random.integers(0, 3, (4, 5, 6)).repeat(2, 0).repeat(3, 1).repeat(3, 2)


@pytest.fixture
def folders(tmp_path):
    """Three cases, and predictions of two methods for them."""
    for number in range(3):
        write(tmp_path / f"reference/case{number}.nii.gz", random_map(number))
        write(tmp_path / f"first/case{number}.nii.gz", random_map(10 + number))
        write(tmp_path / f"second/case{number}.nii.gz", random_map(number))
    return tmp_path


def evaluate(folder, *arguments, predictions=("first",), labels=("1=1.0", "2=2.0")):
    command = ["--reference", str(folder / "reference"), "--output", str(folder / "scores.csv")]
    command += [part for name in predictions for part in ("--prediction", str(folder / name))]
    command += [part for label in labels for part in ("--label", label)]
    return main([*command, *arguments])


def rows(folder):
    with (folder / "scores.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("workers", ["1", "2"])
def test_rows_hold_what_the_kernels_say(folders, workers):
    assert evaluate(folders, "--metrics", ALL_METRICS, "--workers", workers) == 0
    found = rows(folders)
    assert [(row["case"], row["label"]) for row in found] == [
        (f"case{number}.nii.gz", label) for number in range(3) for label in "12"
    ]
    for number in range(3):
        expected = score_masks(
            random_map(number),
            random_map(10 + number),
            spacing_mm=SPACING_ZYX,
            tolerances_mm={1: 1.0, 2: 2.0},
            metrics=("dsc", "nsd", "hd95", "assd"),
        )
        for row, score in zip(found[2 * number :], expected, strict=False):
            assert [float(row[name]) for name in ("dsc", "nsd", "hd95_mm", "assd_mm")] == pytest.approx(
                [score.dsc, score.nsd, score.hd95_mm, score.assd_mm], rel=1e-12
            )
            assert (row["status"], row["num_reference_voxels"]) == ("scored", str(score.num_reference_voxels))


def test_parquet_holds_only_the_metrics_that_were_asked_for(folders):
    assert evaluate(folders, "--output", str(folders / "out/scores.parquet"), "--metrics", "hd95") == 0
    table = pq.read_table(folders / "out/scores.parquet")
    assert table.num_rows == 6
    assert "hd95_mm" in table.column_names
    assert "dsc" not in table.column_names


def test_a_label_has_no_tolerance_where_nothing_depends_on_it(folders):
    assert evaluate(folders, "--metrics", "dsc,hd95", labels=("1=1.0", "2=2.0")) == 0
    with_it = rows(folders)
    assert evaluate(folders, "--metrics", "dsc,hd95", labels=("1", "2")) == 0
    assert rows(folders) == [{**row, "tolerance_mm": ""} for row in with_it]


def test_several_folders_are_told_apart_in_rows_and_summary(folders, capsys):
    assert evaluate(folders, predictions=("first", "second")) == 0
    found = rows(folders)
    assert {row["prediction"] for row in found} == {str(folders / "first"), str(folders / "second")}
    assert {row["dsc"] for row in found if row["prediction"].endswith("second")} == {"1"}
    printed = "".join(capsys.readouterr().out.split())
    assert "1DSC1.00000.00001.00003" in printed


def test_what_cannot_be_scored_is_a_row_that_says_why_and_the_exit_code_is_1(folders, capsys):
    (folders / "first/case0.nii.gz").unlink()
    (folders / "first/case1.nii.gz").write_bytes(b"no image")
    write(folders / "first/case2.nii.gz", random_map(2), spacing_zyx=(2.5, 0.75, 0.75))
    write(folders / "first/extra.nii.gz", random_map(3))
    assert evaluate(folders) == 1
    by_case = {row["case"]: row for row in rows(folders)}
    assert {row["status"] for row in by_case.values()} == {"missing"}
    assert {row["dsc"] for row in by_case.values()} == {""}
    assert "no prediction" in by_case["case0.nii.gz"]["message"]
    assert "not a gzip file" in by_case["case1.nii.gz"]["message"]
    assert "spacing" in by_case["case2.nii.gz"]["message"]
    stderr = capsys.readouterr().err
    assert "extra.nii.gz: no reference has this name" in stderr
    assert stderr.count("missing: ") == 3


def test_the_lines_beside_the_table_are_whole_in_a_pipe(folders, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.chdir(folders)
    (folders / "first/case0.nii.gz").unlink()
    assert main(["--reference", "reference/", "--prediction", "first/", "--label", "1=1.0"]) == 1
    captured = capsys.readouterr()
    assert captured.out.splitlines()[-1].startswith("Over the cases where a number is finite.")
    assert captured.out.endswith("SD: of the sample.\n")
    assert captured.err == "missing: first/case0.nii.gz: there is no prediction for this case\n"


def test_a_file_that_the_system_refuses_to_read_does_not_stop_the_others(folders):
    (folders / "first/case1.nii.gz").unlink()
    (folders / "first/case1.nii.gz").symlink_to("/proc/self/mem")  # nothing is at its beginning
    assert evaluate(folders, predictions=("first", "second")) == 1
    found = rows(folders)
    assert [row["status"] for row in found] == ["scored"] * 2 + ["missing"] * 2 + ["scored"] * 8
    assert "Input/output error" in found[2]["message"]
    assert int(found[2]["num_reference_voxels"]) > 0


def test_pipes_and_links_in_a_circle_are_rows_that_say_so(folders):
    for number, folder in enumerate(("first", "reference")):
        path = folders / folder / f"case{number}.nii.gz"
        path.unlink()
        os.mkfifo(path)
    (folders / "first/around").symlink_to(folders / "first")
    (folders / "first/case2.nii.gz").unlink()
    (folders / "first/case2.nii.gz").symlink_to("case2.nii.gz")
    assert evaluate(folders) == 1
    assert {row["status"] for row in rows(folders)} == {"missing"}
    assert [row["case"] for row in rows(folders)[::2]] == ["case0.nii.gz", "case1.nii.gz", "case2.nii.gz"]


def test_memory_that_is_short_costs_one_case(folders, monkeypatch):
    write(folders / "reference/case1.nii.gz", np.zeros((40, 50, 60)))
    monkeypatch.setattr(stored_voxels, "available_bytes", lambda: 50_000)
    assert evaluate(folders) == 1
    assert [row["status"] for row in rows(folders)[::2]] == ["scored", "missing", "scored"]
    assert "GiB of voxels" in rows(folders)[2]["message"]


@dataclass(frozen=True)
class DeadlyComparison:
    """Kills the process that scores its second case."""

    def score(self, case):
        if case == "b":
            os.kill(os.getpid(), signal.SIGKILL)
        return [case]

    def of_each(self):
        return [self]

    def unscored(self, case, *, message):
        return [case, message]


def test_a_process_that_dies_costs_the_case_that_it_scored():
    rows = sorted(score_in_processes(DeadlyComparison(), ["a", "b", "c", "d"], num_workers=2))
    assert rows == [["a"], ["b", "the process that scored it died, perhaps for want of memory"], ["c"], ["d"]]


@pytest.mark.parametrize("is_file", [True, False], ids=["a script", "the standard input"])
def test_a_program_that_guards_nothing_has_its_cases_scored_by_several_processes(folders, is_file):
    arguments = f"{str(folders / 'reference')!r}, {str(folders / 'first')!r}, tolerances_mm={{1: 1.0}}, workers=2"
    program = f"import orchestrator\nprint(orchestrator.evaluate({arguments}).to_arrow()['status'].to_pylist())\n"
    script = folders / "program.py"
    script.write_text(program)
    command = [sys.executable, str(script) if is_file else "-"]
    found = subprocess.run(command, input=None if is_file else program, capture_output=True, text=True, check=False)
    # It ran once: the other processes do not call it again.
    assert (found.stdout, found.stderr) == ("['scored', 'scored', 'scored']\n", "")


def test_what_was_decided_to_read_a_file_is_in_its_row_and_said_once(folders, capsys):
    for number in range(3):
        path = folders / f"first/case{number}.nii.gz"
        sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "RAS"), str(path))
    assert evaluate(folders) == 0
    assert {row["message"] for row in rows(folders)} == {"axes reordered from RAS to LPS"}
    assert capsys.readouterr().err == f"note: {folders / 'first'}: 3 cases: axes reordered from RAS to LPS\n"


def test_an_unreadable_reference_does_not_stop_the_others(folders):
    (folders / "reference/case1.nii.gz").write_bytes(b"no image")
    assert evaluate(folders) == 1
    assert [row["status"] for row in rows(folders)] == ["scored"] * 2 + ["missing"] * 2 + ["scored"] * 2


def test_empty_masks_count_as_zero_against_others_and_nowhere_against_each_other(folders):
    write(folders / "reference/case0.nii.gz", np.zeros((8, 15, 18)))
    write(folders / "first/case0.nii.gz", np.zeros((8, 15, 18)))
    write(folders / "first/case1.nii.gz", np.zeros((8, 15, 18)))
    assert evaluate(folders, "--metrics", ALL_METRICS, labels=("1=1.0",)) == 0
    found = rows(folders)
    assert [row["status"] for row in found] == ["both_empty", "prediction_empty", "scored"]
    assert [found[0][name] for name in ("dsc", "nsd", "hd95_mm", "assd_mm")] == [""] * 4
    assert [found[1][name] for name in ("dsc", "nsd", "hd95_mm", "assd_mm")] == ["0", "0", "inf", "inf"]


def test_summary_is_over_finite_numbers(folders):
    write(folders / "first/case1.nii.gz", np.zeros((8, 15, 18)))
    where = folders / "reference", folders / "first"
    scores = orchestrator.evaluate(*where, tolerances_mm={1: 1.0}, metrics=("dsc", "hd95")).rows
    (summary,) = summarise(scores, metrics=("dsc", "hd95"))
    first, second = (row.score.dsc for row in (scores[0], scores[2]))
    assert (summary.metrics["dsc"].num, summary.metrics["hd95"].num) == (3, 2)
    assert summary.metrics["dsc"].mean == pytest.approx((first + 0 + second) / 3)
    assert summary.metrics["dsc"].sd == pytest.approx(np.std([first, 0, second], ddof=1))
    assert summary.metrics["dsc"].median == sorted([first, 0, second])[1]
    assert math.isfinite(summary.metrics["hd95"].mean)
    (alone,) = summarise(scores[:1], metrics=("dsc",))
    assert math.isnan(alone.metrics["dsc"].sd)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--label", "3"], "--label 3: found no tolerance of its NSD; expected one in mm, such as 3=1.0, or --metrics"),
        (["--label", "3="], "LABEL=TOLERANCE_IN_MM"),
        (["--label", "x=1"], "--label x=1"),
        (["--label", "0=1"], "1 to 9223372036854775807"),
        (["--label", "1=3"], "each label once"),
        (
            ["--label", "3=-1"],
            "expected a label of 1 to 9223372036854775807 and a tolerance of at least 0 mm",
        ),
        (["--metrics", "dsc,dice"], "--metrics dsc,dice"),
        (["--workers", "0"], "--workers 0"),
        (["--output", "scores.xlsx"], r".csv or .parquet"),
        (["--prediction", "nowhere"], "nowhere: no such folder"),
        (["--cluster", "nowhere.yaml"], "nowhere.yaml"),
        (["--cluster", "clusters/aws.yaml"], "starts no machines"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_2(folders, capsys, arguments, message):
    assert evaluate(folders, *arguments) == 2
    stderr = capsys.readouterr().err
    assert message in stderr
    assert len(stderr.splitlines()) == 1
    assert not (folders / "scores.csv").exists()


def test_a_folder_without_label_maps_is_refused(folders, capsys):
    for path in (folders / "reference").iterdir():
        path.unlink()
    (folders / "reference/notes.txt").write_text("nothing here")
    assert evaluate(folders) == 2
    assert "1 files, for example notes.txt; expected label maps" in capsys.readouterr().err


def test_a_cluster_gives_the_same_rows(folders, tmp_path):
    assert evaluate(folders, "--workers", "1") == 0
    expected = rows(folders)
    (tmp_path / "local.yaml").write_text("kind: local\nnum_cpus: 1\nnum_gpus: 0\n")
    assert evaluate(folders, "--cluster", str(tmp_path / "local.yaml")) == 0
    assert rows(folders) == expected


def disc(*, shift, size=64, radius=10):
    y, x = np.ogrid[:size, :size]
    return (y - 32) ** 2 + (x - 28 - shift) ** 2 <= radius**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_contours_of_one_slice_are_scored_where_they_are_asked_for(tmp_path, axis):
    spacing = [0.5, 0.5]
    spacing.insert(axis, 5.0)
    for folder, shift in (("reference", 0), ("first", 1)):
        write(tmp_path / folder / "a.nii.gz", np.expand_dims(disc(shift=shift), axis), spacing_zyx=tuple(spacing))
    metrics = ("--metrics", "nsd,hd95,hd95-voxel")
    assert evaluate(tmp_path, *metrics, "--dimension", "2", labels=("1=1.0",)) == 0
    (row,) = rows(tmp_path)
    # Shifted by a pixel of 0.5 mm, along which the contour is nowhere farther away.
    assert (row["nsd"], row["hd95_mm"], row["hd95_voxel_mm"]) == ("1", "0.5", "0.5")
    assert row["message"] == ""


def test_one_slice_has_sides_and_says_so_and_a_volume_has_no_contours(tmp_path, capsys):
    for folder, shift in (("reference", 0), ("first", 1)):
        write(tmp_path / folder / "a.nii.gz", disc(shift=shift)[None], spacing_zyx=(5.0, 0.5, 0.5))
    assert evaluate(tmp_path, labels=("1=1.0",)) == 0
    assert "--dimension 2 scores contours" in rows(tmp_path)[0]["message"]
    assert "note: " in capsys.readouterr().err
    assert evaluate(tmp_path, "--metrics", "dsc", labels=("1=1.0",)) == 0
    assert rows(tmp_path)[0]["message"] == ""
    for folder in ("reference", "first"):
        write(tmp_path / folder / "a.nii.gz", np.stack([disc(shift=0)] * 2))
    assert evaluate(tmp_path, "--dimension", "2", labels=("1=1.0",)) == 1
    assert "a volume of 64 x 64 x 2 voxels; expected one slice" in rows(tmp_path)[0]["message"]


def test_files_of_two_axes_have_contours_too(tmp_path):
    for folder, shift in (("reference", 0), ("first", 1)):
        write(tmp_path / folder / "a.nii.gz", disc(shift=shift), spacing_zyx=(0.5, 0.5))
    assert evaluate(tmp_path, labels=("1=1.0",)) == 0
    assert "--dimension 2 scores contours" in rows(tmp_path)[0]["message"]
    assert evaluate(tmp_path, "--dimension", "2", "--metrics", "nsd,hd95", labels=("1=1.0",)) == 0
    assert (rows(tmp_path)[0]["nsd"], rows(tmp_path)[0]["hd95_mm"]) == ("1", "0.5")


@pytest.mark.parametrize(
    ("thicknesses_mm", "dimension", "message"),
    [
        ((None, 5.0), "2", ""),
        ((5.0, None), "2", ""),
        # Two that are known must agree, and volumes as well.
        ((5.0, 1.5), "2", "spacing (x, y, z) in mm (0.75, 0.5, 1.5), expected (0.75, 0.5, 5)"),
        ((None, 5.0), "3", "spacing (x, y, z) in mm (0.75, 0.5, 5), expected (0.75, 0.5, 1)"),
    ],
)
def test_contours_of_a_file_of_two_axes_are_compared_with_a_slice_of_any_thickness(
    tmp_path, thicknesses_mm, dimension, message
):
    for folder, shift, thickness_mm in zip(("reference", "first"), (0, 1), thicknesses_mm, strict=True):
        array, spacing_zyx = (disc(shift=shift)[None], (thickness_mm, 0.5, 0.75))
        if thickness_mm is None:
            array, spacing_zyx = array[0], spacing_zyx[1:]
        write(tmp_path / folder / "a.nii.gz", array, spacing_zyx=spacing_zyx)
    options = ("--dimension", dimension, "--metrics", "hd95")
    assert evaluate(tmp_path, *options, labels=("1=1.0",)) == int(bool(message))
    (row,) = rows(tmp_path)
    assert row["hd95_mm"] == ("" if message else "0.75")
    assert message in row["message"]


def test_instances_beyond_255_are_scored(tmp_path):
    labels = np.zeros((4, 9, 9), np.uint16)
    labels[1:3, 2:6, 2:6] = 40_000
    for folder in ("reference", "first"):
        (tmp_path / folder).mkdir()
        sitk.WriteImage(sitk.GetImageFromArray(labels), str(tmp_path / folder / "a.nii.gz"))
    assert evaluate(tmp_path, labels=("40000=1.0", "256=1.0")) == 0
    assert [(row["label"], row["status"]) for row in rows(tmp_path)] == [("40000", "scored"), ("256", "both_empty")]


def test_several_folders_are_ranked(folders, capsys):
    write(folders / "third/case0.nii.gz", random_map(0))
    board = folders / "ranks.csv"
    assert evaluate(folders, "--leaderboard", str(board), predictions=("first", "second", "third")) == 1
    shown = capsys.readouterr().out
    board_shown = shown[shown.index("ranked") :]
    assert board_shown.index("/second") < board_shown.index("/first")
    with board.open() as file:
        ranks = list(csv.DictReader(file))
    assert len(ranks) == 3 * 2 * 2
    by_folder = {
        row["method"].rpartition("/")[2]: row for row in ranks if (row["structure"], row["metric"]) == ("1", "nsd")
    }
    # The second folder holds the references themselves; the third one of them, and its two others count as 0.
    assert float(by_folder["first"]["mean"]) > 1 / 3
    assert [by_folder[name]["rank_of_mean"] for name in ("second", "first", "third")] == ["1", "2", "3"]
    assert by_folder["second"]["rank_of_ranks"] == "1"
    # Of the one case that it has, and what is ranked.
    assert (float(by_folder["third"]["mean"]), by_folder["third"]["num_missing"]) == (1.0, "2")
    assert float(by_folder["third"]["ranked_mean"]) == pytest.approx(1 / 3)
    assert by_folder["first"]["ranked_mean"] == by_folder["first"]["mean"]
    assert float(by_folder["second"]["share_first"]) > 0.6


def test_one_folder_is_not_ranked(folders, capsys):
    assert evaluate(folders, "--leaderboard", str(folders / "ranks.csv")) == 2
    assert "expected several to rank" in capsys.readouterr().err
    assert evaluate(folders, "--leaderboard", str(folders / "ranks.txt"), predictions=("first", "second")) == 2
