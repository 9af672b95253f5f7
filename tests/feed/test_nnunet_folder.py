"""Claims about reading what nnU-Net has preprocessed: boxes, labels to draw from, and files that are not whole."""

import pickle
import threading

import blosc2
import numpy as np
import pytest
from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2, nnUNetDatasetNumpy
from patch_cases import make_case

from orchestrator.errors import DataError, IntegrityError
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches
from orchestrator.training.feed import blosc2_array
from orchestrator.training.feed.nnunet_folder import NnunetFolder, read_properties

SHAPE = (2, 21, 40, 37)
BOXES = {
    "inside": ((3, 5, 7), (10, 12, 20)),
    "the whole": ((0, 0, 0), SHAPE[1:]),
    "beyond every border": ((-4, -3, -2), (30, 50, 60)),
    "beyond one": ((15, 30, 30), (6, 6, 14)),
    "outside": ((50, 5, 5), (4, 4, 4)),
    "before": ((2, -9, 3), (3, 4, 5)),
    "one slice": ((20, 3, 3), (1, 40, 16)),
}
"""First voxel and shape."""


def stored(folder, *, dataset=nnUNetDatasetBlosc2, seg_dtype=np.int16, together=1):
    """A case as nnU-Net stores it, and what it holds."""
    data, seg, properties = make_case(SHAPE)
    seg = seg[:1].astype(seg_dtype)
    sizes = {"blocks": (together, 8, 16, 16), "chunks": (together, 16, 32, 32)}
    sizes |= {"blocks_seg": (1, 8, 16, 16), "chunks_seg": (1, 16, 32, 32)}
    sizes = sizes if dataset is nnUNetDatasetBlosc2 else {}
    dataset.save_case(data, seg, properties, str(folder / "a"), **sizes)
    return data, seg, properties


def read(case, start, shape):
    image, labels = np.full((SHAPE[0], *shape), np.nan, np.float32), np.full(shape, 77, np.int16)
    case.read_into(image, labels, start=start)
    return image, labels


def read_all(folder):
    case = folder.open("a")
    assert case.labels
    return read(case, (0, 0, 0), SHAPE[1:])


@pytest.mark.parametrize("reader", ["library", "module"])
@pytest.mark.parametrize("seg_dtype", [np.int8, np.int16])
@pytest.mark.parametrize("together", [1, 2], ids=["a channel a block", "all channels in a block"])
def test_boxes_are_those_of_a_patch_file(tmp_path, monkeypatch, reader, seg_dtype, together):
    assert blosc2_array._library() is not None
    if reader == "module":
        monkeypatch.setattr(blosc2_array, "_library", lambda: None)
    data, seg, properties = stored(tmp_path, seg_dtype=seg_dtype, together=together)
    write_patches(tmp_path / "a.arrow", data=data, seg=seg, properties=properties, precision="lossless")
    expected = PatchFile.open(tmp_path / "a.arrow")
    found = NnunetFolder(nnUNetDatasetBlosc2(str(tmp_path), ["a"])).open("a")
    assert found.shape == expected.shape
    assert found.labels == expected.labels == (1, 2)
    for label in (1, 2, (1, 2), 3, "nix"):
        np.testing.assert_array_equal(found.class_locations(label), expected.class_locations(label))
    for start, shape in BOXES.values():
        for one, other in zip(read(found, start, shape), read(expected, start, shape), strict=True):
            np.testing.assert_array_equal(one, other)


def test_cases_of_earlier_versions_are_read_as_well(tmp_path):
    data, seg, _ = stored(tmp_path, dataset=nnUNetDatasetNumpy)
    found = NnunetFolder(nnUNetDatasetNumpy(str(tmp_path), ["a"])).open("a")
    image, labels = read(found, (-1, 0, 0), (5, 9, 9))
    np.testing.assert_array_equal(image[:, 1:], data[:, :4, :9, :9])
    np.testing.assert_array_equal(labels[1:], seg[0, :4, :9, :9])
    assert (image[:, 0] == 0).all()
    assert (labels[0] == -1).all()


def test_threads_may_share_a_case(tmp_path):
    data, _, _ = stored(tmp_path)
    case = NnunetFolder(nnUNetDatasetBlosc2(str(tmp_path), ["a"])).open("a")
    wrong = []

    def work(number):
        for turn in range(40):
            y = (7 * number + turn) % 20
            image, _ = read(case, (2, y, 1), (9, 17, 30))
            if not np.array_equal(image, data[:, 2:11, y : y + 17, 1:31]):
                wrong.append((number, turn))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("name", ["a.b2nd", "a_seg.b2nd", "a.pkl"])
@pytest.mark.parametrize("damage", ["missing", "empty", "other", "torn"])
def test_a_file_that_is_not_whole_is_named(tmp_path, name, damage):
    stored(tmp_path)
    path = tmp_path / name
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "other": b"x" * 500, "torn": content[: len(content) // 3]}[damage])
    with pytest.raises((IntegrityError, DataError), match=rf"{name}: .*(again|expected)"):
        read_all(NnunetFolder(nnUNetDatasetBlosc2(str(tmp_path), ["a"])))


def test_an_image_and_a_segmentation_of_other_voxels_are_refused(tmp_path):
    stored(tmp_path)
    blosc2.asarray(np.zeros((1, 5, 6, 7), np.int16), urlpath=str(tmp_path / "a_seg.b2nd"), mode="w")
    with pytest.raises(IntegrityError, match=r"an image \(2, 21, 40, 37\) with a segmentation \(1, 5, 6, 7\)"):
        NnunetFolder(nnUNetDatasetBlosc2(str(tmp_path), ["a"])).open("a")


def test_places_outside_of_a_case_are_refused(tmp_path):
    _, _, properties = stored(tmp_path)
    for places in ([[0, 21, 0, 0]], [[0, 0, -1, 0]]):
        changed = {**properties, "class_locations": {1: np.array(places)}}
        (tmp_path / "a.pkl").write_bytes(pickle.dumps(changed))
        case = NnunetFolder(nnUNetDatasetBlosc2(str(tmp_path), ["a"])).open("a")
        with pytest.raises(IntegrityError, match="class_locations of label 1 lie outside"):
            case.class_locations(1)


class _Runs:
    def __reduce__(self):
        return exec, ("print('ran')",)


def test_nothing_in_the_properties_is_run(tmp_path, capsys):
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"spacing": _Runs()}))
    with pytest.raises(DataError, match=r"a\.pkl: cannot be read as plain properties \(builtins.exec\)"):
        read_properties(tmp_path / "a.pkl")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("protocol", range(3, pickle.HIGHEST_PROTOCOL + 1))
def test_plain_properties_are_read_in_every_protocol(tmp_path, protocol):
    _, _, properties = make_case(SHAPE)
    (tmp_path / "a.pkl").write_bytes(pickle.dumps(properties, protocol))
    found = read_properties(tmp_path / "a.pkl")
    assert found["spacing"] == [5.0, 0.8, 0.8]
    assert found["sitk_stuff"] == properties["sitk_stuff"]
    np.testing.assert_array_equal(found["class_locations"][1], properties["class_locations"][1])
