"""Claims about cases as nnU-Net's loader sees them, against its own store."""

import pickle

import numpy as np
import pytest
from patch_cases import make_case

from orchestrator.errors import IntegrityError


@pytest.fixture
def both_stores(tmp_path):
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetNumpy

    from orchestrator.training.feed.patch_dataset import ArrowDataset

    for index, shape in enumerate([(1, 24, 40, 40), (1, 9, 90, 33), (1, 40, 20, 70)]):
        data, seg, properties = make_case(shape, seed=index)
        # nnU-Net keeps locations as int64 and segmentations as int16.
        wide = {
            **properties,
            "class_locations": {
                k: np.asarray(v, np.int64).reshape(-1, 4) for k, v in properties["class_locations"].items()
            },
        }
        for name, values, stored, kept in (
            ("numpy", wide, seg.astype(np.int16), nnUNetDatasetNumpy),
            ("arrow", properties, seg, ArrowDataset),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            data = np.rint(data * 512) / np.float32(512) + np.float32(0)
            kept.save_case(data, stored, values, str(tmp_path / name / f"case_{index}"))
    return nnUNetDatasetNumpy(str(tmp_path / "numpy")), ArrowDataset(str(tmp_path / "arrow"))


def test_boxes_inside_and_outside_are_those_of_nnunets_store(both_stores):
    from acvl_utils.cropping_and_padding.bounding_boxes import crop_and_pad_nd

    expected_store, store = both_stores
    expected, expected_seg, _, _ = expected_store.load_case("case_0")
    image, seg, earlier, _ = store.load_case("case_0")
    assert earlier is None
    boxes = [
        [[2, 20], [3, 30], [0, 40]],
        [[-5, 30], [-3, 20], [30, 50]],
        [[-9, 0], [0, 10], [0, 10]],
        [[0, 5], [40, 60], [0, 10]],
        [[50, 60], [-20, -10], [90, 99]],
    ]
    for box in boxes:
        np.testing.assert_array_equal(crop_and_pad_nd(image, box, 0), crop_and_pad_nd(expected, box, 0))
        found = crop_and_pad_nd(seg, box, -1, cast_cropped_to=np.int16)
        np.testing.assert_array_equal(found, crop_and_pad_nd(expected_seg, box, -1, cast_cropped_to=np.int16))
        assert found.shape == (1, *(last - first for first, last in box))


@pytest.mark.parametrize("patch_size", [(16, 32, 32), (28, 60, 44), (24, 40)])
def test_batches_of_nnunets_loader_are_those_of_nnunets_store(both_stores, patch_size):
    from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
    from nnunetv2.utilities.label_handling.label_handling import LabelManager

    labels = LabelManager({"background": 0, "left_lung": 1, "right_lung": 2}, None)
    batches = []
    for store in both_stores:
        loader = nnUNetDataLoader(store, 4, patch_size, [size - 6 for size in patch_size], labels, 0.5)
        np.random.seed(7)  # noqa: NPY002  nnU-Net draws from the global state
        batches.append([loader.generate_train_batch() for _ in range(6)])
    for expected, found in zip(*batches, strict=True):
        assert list(found["keys"]) == list(expected["keys"])
        assert (found["data"].dtype, found["target"].dtype) == (expected["data"].dtype, expected["target"].dtype)
        np.testing.assert_array_equal(found["data"].numpy(), expected["data"].numpy())
        np.testing.assert_array_equal(found["target"].numpy(), expected["target"].numpy())


def test_numpy_reads_the_loaders_arrays_and_not_their_memory(both_stores):
    expected_store, store = both_stores
    image = store["case_1"][0]
    assert isinstance(image, np.ndarray)
    np.testing.assert_array_equal(np.asarray(image), expected_store["case_1"][0])
    np.testing.assert_array_equal(np.asarray(image) * 2, expected_store["case_1"][0] * 2)


def test_a_dataset_survives_pickling(both_stores):
    store = both_stores[1]
    store.load_case("case_2")
    copied = pickle.loads(pickle.dumps(store))
    assert copied.identifiers == ["case_0", "case_1", "case_2"]
    np.testing.assert_array_equal(copied.load_case("case_2")[0][:], store.load_case("case_2")[0][:])


def test_a_missing_case_is_named(both_stores):
    with pytest.raises(IntegrityError, match=r"case_9\.arrow"):
        both_stores[1].load_case("case_9")


def test_nnunet_finds_the_registered_dataset_by_the_file_ending(both_stores, monkeypatch):
    from nnunetv2.training.dataloading import nnunet_dataset

    from orchestrator.training.feed.patch_dataset import ArrowDataset, register_arrow_dataset

    monkeypatch.setattr(nnunet_dataset, "file_ending_dataset_mapping", dict(nnunet_dataset.file_ending_dataset_mapping))
    register_arrow_dataset()
    assert nnunet_dataset.infer_dataset_class(both_stores[1].source_folder) is ArrowDataset
