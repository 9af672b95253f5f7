"""Claims about converting where something is odd: a full disk, a command that was killed, other types than usual."""

import errno
import os
import shutil
import time

import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
from tiny_training import let_nnunet_find

from bench.stock_trainer.folders import CASES, KINDS, made_trainer, write_stock_folder
from orchestrator.cli.main import main
from orchestrator.patches.reader import PatchFile
from orchestrator.training.dropin import converting
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return write_stock_folder(tmp_path_factory.mktemp("stock"), KINDS["CT"])


@pytest.fixture
def folder(original, tmp_path, monkeypatch):
    """A preprocessed data set of its own, in a folder with a space in its name."""
    made = type(original)(root=tmp_path / "my data", plan=original.plan)
    shutil.copytree(original.root, made.root)
    let_nnunet_find(made, tmp_path / "results", monkeypatch)
    return made


def convert(*options):
    return main(["convert-preprocessed", "1", "-c", "3d_fullres", *options])


FULL = {
    "blosc2": (RuntimeError("Error while creating the NDArray"), "blosc2 cannot write (Error while creating"),
    "the system": (OSError(errno.ENOSPC, "No space left on device"), "no space left to write into it"),
}


@pytest.mark.parametrize("says", FULL)
def test_a_full_disk_ends_the_way_back_with_one_line_and_leaves_nothing_half(says, folder, monkeypatch, capsys):
    assert convert() == 0
    for case in CASES:
        (folder.cases / f"{case}.b2nd").unlink()
    error, words = FULL[says]

    def fail(*given, **named):
        raise error

    capsys.readouterr()
    with monkeypatch.context() as context:
        context.setattr(nnUNetDatasetBlosc2, "save_case", staticmethod(fail))
        assert convert("--to", "blosc2") == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert words in line
    assert line.endswith("Free space, and run the same command again")
    assert [path.name for path in folder.cases.iterdir() if path.is_dir()] == ["arrow"]
    assert convert("--to", "blosc2") == 0
    assert "5 cases as files of nnU-Net's" in capsys.readouterr().out


def test_what_a_killed_conversion_has_left_is_removed_after_a_day(folder):
    assert convert() == 0
    left = folder.cases / ".unfinished-0123456789abcdef", folder.cases / "arrow" / ".tmp-0123456789abcdef-case_0.arrow"
    left[0].mkdir()
    left[1].touch()
    assert convert() == 0
    assert all(path.exists() for path in left)  # another conversion may be at it
    long_ago_s = time.time() - 2 * 86400
    for path in left:
        os.utime(path, (long_ago_s, long_ago_s))
    assert convert() == 0
    assert not any(path.exists() for path in left)


@pytest.mark.parametrize(
    ("image", "labels"),
    [("float16", "int16"), ("float32", "uint8"), ("float64", "int32"), ("int16", "int64"), ("float32", "float32")],
)
def test_images_and_labels_of_any_type_come_back_as_they_were(image, labels, folder):
    stored = nnUNetDatasetBlosc2(str(folder.cases))
    data, seg, _, properties = stored.load_case("case_1")
    data, seg = data[:].astype(image), np.maximum(seg[:], 0).astype(labels)
    sizes = {"chunks": data.shape, "blocks": data.shape, "chunks_seg": seg.shape, "blocks_seg": seg.shape}
    for ending in (".b2nd", "_seg.b2nd"):
        (folder.cases / f"case_1{ending}").unlink()
    stored.save_case(data, seg, properties, str(folder.cases / "case_1"), **sizes)
    assert convert("--lossless") == 0
    found = PatchFile.open(folder.cases / "arrow" / "case_1.arrow")
    for one, other in ((found.image, data), (found.segmentation, seg)):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), other)
    made_trainer(nnUNetTrainerOrchestrator, folder).initialize()


@pytest.mark.parametrize("precision", ["quantised", "lossless"])
def test_files_that_were_written_again_and_their_patch_files_belong_together(precision, folder, capsys):
    options = ["--lossless"] * (precision == "lossless")
    assert convert(*options) == 0
    before = {case: PatchFile.open(folder.cases / "arrow" / f"{case}.arrow") for case in CASES}
    for case in CASES[1:]:
        (folder.cases / f"{case}.b2nd").unlink()
    assert convert("--to", "blosc2") == 0
    made_trainer(nnUNetTrainerOrchestrator, folder).initialize()
    capsys.readouterr()
    assert convert(*options) == 0
    assert capsys.readouterr().out == f"3d_fullres: 0 cases as {precision} patch files, 5 were there already\n"
    for case, one in before.items():
        found = PatchFile.open(folder.cases / "arrow" / f"{case}.arrow")
        np.testing.assert_array_equal(np.asarray(found.image), np.asarray(one.image))
        assert converting._is_equal(found.properties, one.properties)
        found.verify()


def test_files_of_others_among_the_cases_are_named(folder, capsys):
    (folder.cases / ".DS_Store").touch()
    assert convert() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {folder.cases}: files that end in .DS_Store, .b2nd, .pkl, by which")
    assert captured.err.count("\n") == 1
    with pytest.raises(SystemExit, match=r"files that end in \.DS_Store"):
        made_trainer(nnUNetTrainerOrchestrator, folder).initialize()


@pytest.mark.parametrize("plans", ["{", "{}", "[]", '{"configurations": {"3d_fullres": {"architecture": 1}}}'])
def test_plans_that_are_not_whole_are_one_line(plans, folder, capsys):
    path = folder.base / "nnUNetPlans.json"
    path.write_text(plans)
    assert convert() == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {path}: not whole plans of nnU-Net (")
    assert captured.err.count("\n") == 1


def test_a_folder_that_cannot_be_looked_at_is_one_line(folder, monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(errno.EACCES, "Permission denied", str(folder.cases))

    monkeypatch.setattr(converting, "own_identifiers", refuse)
    assert convert() == 1
    assert capsys.readouterr().err == f"error: [Errno 13] Permission denied: '{folder.cases}'\n"


def test_a_case_that_may_not_be_read_does_not_keep_the_others_from_it(folder, monkeypatch, capsys):
    read = converting._read

    def refuse(place, identifier):
        if identifier == "case_2":
            raise PermissionError(errno.EACCES, "Permission denied", str(place / "case_2.pkl"))
        return read(place, identifier)

    monkeypatch.setattr(converting, "_read", refuse)
    assert convert() == 1
    captured = capsys.readouterr()
    assert captured.out == "3d_fullres: 4 cases as quantised patch files, 1 cannot be converted\n"
    assert captured.err == f"error: {folder.cases / 'case_2.pkl'}: Permission denied\n"
