"""Claims about turning what nnU-Net has preprocessed into patch files and back, and about training from either."""

import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from tiny_training import assert_same_weights, let_nnunet_find, tiny_preset

from bench.stock_trainer.folders import CASES, KINDS, made_trainer, write_stock_folder
from orchestrator.cli.main import main
from orchestrator.errors import IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.training.dropin import converting
from orchestrator.training.dropin.trainer import nnUNetTrainerOrchestrator
from orchestrator.training.nnunet.trainers.preset_trainer import PresetTrainer, TrainingData

ENDINGS = (".b2nd", "_seg.b2nd", ".pkl")


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Preprocessed data sets by kind, each made once."""
    return {
        kind: write_stock_folder(tmp_path_factory.mktemp("stock"), KINDS[kind])
        for kind in ("CT", "two channels", "regions, ignore label", "two channels, 2d")
    }


@pytest.fixture
def copied(originals, tmp_path, monkeypatch):
    """A copy of one of these, where nnU-Net finds it."""

    def copy(kind):
        folder = originals[kind]
        made = type(folder)(root=tmp_path / "data", plan=folder.plan)
        shutil.copytree(folder.root, made.root)
        let_nnunet_find(made, tmp_path / "results", monkeypatch)
        return made

    return copy


def convert(*options):
    return main(["convert-preprocessed", "1", "-c", *options])


def files_of(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ["CT", "two channels", "regions, ignore label"])
@pytest.mark.parametrize("lossless", [False, True])
def test_a_patch_file_holds_what_nnunets_files_hold(kind, lossless, copied, capsys):
    folder = copied(kind)
    before = files_of(folder.cases)
    assert convert("3d_fullres", *["--lossless"] * lossless) == 0
    assert files_of(folder.cases) == before
    precision = "lossless" if lossless else "quantised"
    assert capsys.readouterr().out == f"3d_fullres: 5 cases as {precision} patch files\n"
    dataset = nnUNetDatasetBlosc2(str(folder.cases))
    for case in CASES:
        data, seg, _, properties = dataset.load_case(case)
        found = PatchFile.open(folder.cases / "arrow" / f"{case}.arrow")
        assert np.abs(np.asarray(found.image) - data[:]).max() <= (0 if lossless else 2.0**-10)
        np.testing.assert_array_equal(np.asarray(found.segmentation), seg[:])
        assert found.properties.keys() == properties.keys()
        for label, places in properties["class_locations"].items():
            np.testing.assert_array_equal(found.properties["class_locations"][label], places)
        assert found.properties["bbox_used_for_cropping"] == properties["bbox_used_for_cropping"]


def test_there_and_back_every_bit_is_as_it_was(copied, capsys):
    folder = copied("two channels")
    assert convert("3d_fullres", "--lossless") == 0
    before = {
        case: [np.asarray(one[:]) for one in nnUNetDatasetBlosc2(str(folder.cases)).load_case(case)[:2]]
        for case in CASES
    }
    properties = {case: nnUNetDatasetBlosc2(str(folder.cases)).load_case(case)[3] for case in CASES}
    for case in CASES[:4]:
        for ending in ENDINGS:
            (folder.cases / f"{case}{ending}").unlink()
    assert convert("3d_fullres", "--to", "blosc2") == 0
    assert "4 cases as files of nnU-Net's, 1 were there already" in capsys.readouterr().out
    dataset = nnUNetDatasetBlosc2(str(folder.cases))
    for case in CASES:
        data, seg, _, found = dataset.load_case(case)
        np.testing.assert_array_equal(data[:], before[case][0])
        np.testing.assert_array_equal(seg[:], before[case][1])
        assert seg.dtype == before[case][1].dtype
        assert converting._is_equal(found, properties[case])
    assert sorted(path.name for path in folder.cases.iterdir() if path.is_dir()) == ["arrow"]


def test_what_is_converted_is_not_converted_again_and_what_is_missing_is(copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres") == 0
    patches = folder.cases / "arrow"
    before = files_of(patches)
    (patches / "case_2.arrow").unlink()
    (patches / ".tmp-0123456789abcdef-case_2.arrow").write_bytes(b"half")
    assert convert("3d_fullres") == 0
    assert "1 case as quantised patch files, 4 were there already" in capsys.readouterr().out
    after = files_of(patches)
    assert {name: after[name] for name in before if name != "case_2.arrow"} == {
        name: one for name, one in before.items() if name != "case_2.arrow"
    }


def test_a_case_that_was_preprocessed_anew_is_converted_anew(copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres") == 0
    for ending in ENDINGS:
        shutil.copy(folder.cases / f"case_1{ending}", folder.cases / f"case_0{ending}")
    trainer = made_trainer(nnUNetTrainerOrchestrator, folder)
    with pytest.raises(SystemExit, match=r"case_0\.arrow: made of other files than .* convert-preprocessed again"):
        trainer.initialize()
    os.utime(folder.cases / "case_3.b2nd")  # copied anew, and still the same
    assert convert("3d_fullres") == 0
    assert "1 case as quantised patch files, 4 were there already" in capsys.readouterr().out
    made_trainer(nnUNetTrainerOrchestrator, folder).initialize()


def test_a_file_of_other_content_and_an_older_time_is_converted_anew(copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres") == 0
    for ending in ENDINGS:
        shutil.copy(folder.cases / f"case_1{ending}", folder.cases / f"case_2{ending}")
        os.utime(folder.cases / f"case_2{ending}", (10**9, 10**9))  # as rsync -a leaves it
    with pytest.raises(SystemExit, match=r"case_2\.arrow: made of other files than"):
        made_trainer(nnUNetTrainerOrchestrator, folder).initialize()
    assert convert("3d_fullres") == 0
    assert "1 case as quantised patch files, 4 were there already" in capsys.readouterr().out
    made_trainer(nnUNetTrainerOrchestrator, folder).initialize()
    shape = PatchFile.open(folder.cases / "arrow" / "case_2.arrow").shape
    assert shape == PatchFile.open(folder.cases / "arrow" / "case_1.arrow").shape


def test_another_precision_is_converted_anew(copied, capsys):
    folder = copied("CT")
    for options, precision, max_error in (
        ([], "quantised", 2.0**-10),
        (["--lossless"], "lossless", 0),
        ([], "quantised", 2.0**-10),
    ):
        assert convert("3d_fullres", *options) == 0
        assert capsys.readouterr().out == f"3d_fullres: 5 cases as {precision} patch files\n"
        assert PatchFile.open(folder.cases / "arrow" / "case_4.arrow").image.max_error == max_error
    assert convert("3d_fullres") == 0
    assert capsys.readouterr().out == "3d_fullres: 0 cases as quantised patch files, 5 were there already\n"


DAMAGE = {
    "cut off": lambda content: content[:1000],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:-5000] + bytes([content[-5000] ^ 1]) + content[-4999:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_patch_file_is_not_taken_for_one_that_is_there(damage, copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres") == 0
    path = folder.cases / "arrow" / "case_1.arrow"
    whole = path.read_bytes()
    path.write_bytes(DAMAGE[damage](whole))
    assert convert("3d_fullres") == 0
    assert "1 case as quantised patch files, 4 were there already" in capsys.readouterr().out
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", ["cut off", "empty"])
def test_a_damaged_file_of_nnunets_is_not_taken_for_one_that_is_there(damage, copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres", "--lossless") == 0
    for name in ("case_1.b2nd", "case_2_seg.b2nd"):
        path = folder.cases / name
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert convert("3d_fullres", "--to", "blosc2") == 0
    assert "2 cases as files of nnU-Net's, 3 were there already" in capsys.readouterr().out
    assert convert("3d_fullres", "--lossless") == 0


def test_files_that_hold_another_case_than_the_patch_file_are_left_as_they_are(copied, capsys):
    folder = copied("CT")
    assert convert("3d_fullres") == 0
    for ending in ENDINGS:
        shutil.copy(folder.cases / f"case_1{ending}", folder.cases / f"case_2{ending}")
    before = files_of(folder.cases)
    assert convert("3d_fullres", "--to", "blosc2") == 1
    captured = capsys.readouterr()
    assert "0 cases as files of nnU-Net's, 4 were there already, 1 cannot be converted" in captured.out
    assert "case_2.b2nd: another image and segmentation and properties than its patch file has" in captured.err
    assert files_of(folder.cases) == before


def test_what_is_not_written_as_it_was_read_gets_no_name(copied, monkeypatch):
    folder = copied("CT")

    def write(path, *, data, **others):
        changed = data.copy()
        changed[0, 3, 4, 5] += 1
        write_truly(path, data=changed, **others)

    write_truly = converting.write_patches
    monkeypatch.setattr(converting, "write_patches", write)
    (conversion,) = converting.find_conversions(
        "1", configurations=["3d_fullres"], plans_name="nnUNetPlans", target="patches", lossless=False
    )
    with pytest.raises(IntegrityError, match=r"case_0\.arrow: another image than was to be written"):
        conversion.convert("case_0")
    assert list((folder.cases / "arrow").iterdir()) == []


def test_intensities_that_are_no_standard_deviations_are_kept_as_they_are(copied, capsys):
    folder = copied("CT")
    path = folder.base / "nnUNetPlans.json"
    path.write_text(path.read_text().replace("CTNormalization", "RescaleTo01Normalization"))
    assert convert("3d_fullres") == 0
    assert "5 cases as lossless patch files" in capsys.readouterr().out


REFUSED = {
    ("7", "-c", "3d_fullres"): "error: 7: ",
    ("1", "-c", "3d"): "unknown configuration '3d'",
    ("1", "-p", "nix"): "nix.json: no such plans; there are nnUNetPlans",
    ("1", "-c", "2d"): "no cases to convert; expected those of nnUNetv2_preprocess",
    ("1", "--to", "blosc2"): "no cases to convert",
    ("1", "--threads", "0"): "--threads 0: expected at least 1",
}


@pytest.mark.parametrize("options", REFUSED)
def test_what_cannot_be_converted_is_refused_in_a_line(options, copied, capsys):
    copied("CT")
    assert main(["convert-preprocessed", *options]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert REFUSED[options] in captured.err
    assert captured.out == ""


def test_damaged_cases_are_named_and_the_others_converted(copied, capsys):
    folder = copied("CT")
    (folder.cases / "case_1.pkl").write_bytes(b"")
    (folder.cases / "case_3.pkl").unlink()
    assert convert("3d_fullres") == 1
    captured = capsys.readouterr()
    assert captured.out == "3d_fullres: 3 cases as quantised patch files, 2 cannot be converted\n"
    assert [line.split(": ")[:3:2] for line in captured.err.splitlines()] == [
        ["error", "not whole (EOFError"],
        ["error", "not whole (FileNotFoundError"],
    ]
    assert "case_1.pkl" in captured.err.splitlines()[0]
    assert sorted(path.stem for path in (folder.cases / "arrow").iterdir()) == ["case_0", "case_2", "case_4"]


@pytest.mark.filterwarnings("ignore:Exception ignored in. <_io.FileIO:pytest.PytestUnraisableExceptionWarning")
def test_a_case_of_an_older_release_that_is_cut_short_is_named(copied, capsys):
    cases = copied("CT").cases
    stock = nnUNetDatasetBlosc2(str(cases))
    for name in stock.identifiers:
        data, seg, _, properties = stock.load_case(name)
        nnUNetDatasetNumpy.save_case(data[:], seg[:], properties, str(cases / name))
    for path in cases.glob("*.b2nd"):
        path.unlink()
    whole = (cases / "case_2.npz").read_bytes()
    (cases / "case_2.npz").write_bytes(whole[: len(whole) // 2])
    assert convert("3d_fullres") == 1
    gc.collect()  # numpy leaves such a file open
    captured = capsys.readouterr()
    assert captured.out == "3d_fullres: 4 cases as quantised patch files, 1 cannot be converted\n"
    assert "case_2: missing or not whole (File is not a zip file). Preprocess it again" in captured.err


def batches(loaders, num=6):
    found = []
    for loader in loaders:
        for _ in range(num):
            batch = loader.next_batch()
            targets = batch["target"] if isinstance(batch["target"], list) else [batch["target"]]
            found.append((batch["data"].clone(), [target.clone() for target in targets], batch["keys"]))
        loader.close()
    return found


def assert_same_batches(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one[2] == other[2]
        assert torch.equal(one[0], other[0])
        assert all(torch.equal(target, same) for target, same in zip(one[1], other[1], strict=True))


def test_every_batch_is_that_which_a_study_would_draw(copied):
    folder = copied("two channels")
    trainer = made_trainer(nnUNetTrainerOrchestrator, folder)
    trainer.initialize()
    found, fed = batches(trainer.get_dataloaders()), trainer._fed()
    assert convert("3d_fullres", "--lossless") == 0
    study = made_trainer(PresetTrainer, folder)
    study.configure(
        training_id="x",
        preset=tiny_preset(optimizer="nnunet", initial_learning_rate=None, mirror_axes=None),
        data=TrainingData(
            patches=folder.cases / "arrow", train=fed.train, monitoring=fed.monitoring, origin={"seed": fed.seed}
        ),
        log=lambda _: None,
    )
    study.initialize()
    assert_same_batches(found, batches(study.get_dataloaders()))


@pytest.mark.parametrize("kind", ["CT", "two channels", "regions, ignore label", "two channels, 2d"])
def test_every_batch_from_nnunets_files_is_that_from_patch_files(kind, copied):
    folder = copied(kind)
    configuration = KINDS[kind].configuration
    found = []
    for options in (None, ["--lossless"], []):
        if options is not None:
            shutil.rmtree(folder.cases / "arrow", ignore_errors=True)
            assert convert(configuration, *options) == 0
        trainer = made_trainer(nnUNetTrainerOrchestrator, folder)
        trainer.initialize()
        found.append(batches(trainer.get_dataloaders()))
    own, exact, rounded = found
    assert_same_batches(own, exact)
    for one, alike in zip(own, rounded, strict=True):
        assert one[2] == alike[2]
        assert (one[0] - alike[0]).abs().mean() < 2.0**-9
        assert all(torch.equal(target, same) for target, same in zip(one[1], alike[1], strict=True))


def test_a_training_from_patch_files_goes_the_same_way_and_says_from_what(copied, monkeypatch, tmp_path):
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    folder = copied("two channels")
    weights = []
    for name in ("own", "patches"):
        let_nnunet_find(folder, tmp_path / name, monkeypatch)
        trainer = made_trainer(nnUNetTrainerOrchestrator, folder, num_epochs=1)
        trainer.run_training()
        weights.append(trainer.network.state_dict())
        kind = "patch files" if name == "patches" else "nnU-Net's own files"
        assert f"Batches from {kind}" in Path(trainer.log_file).read_text()
        assert convert("3d_fullres", "--lossless") == 0
    assert_same_weights(weights[1], weights[0])
    for path in folder.cases.iterdir():
        if path.is_file():
            path.unlink()
    made_trainer(nnUNetTrainerOrchestrator, folder).initialize()  # patch files alone will do
    shutil.rmtree(folder.cases)
    with pytest.raises(SystemExit, match="no preprocessed cases"):
        made_trainer(nnUNetTrainerOrchestrator, folder).initialize()
