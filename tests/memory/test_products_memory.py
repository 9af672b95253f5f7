"""Claims about the memory of pictures, DICOM objects and derived values, and that they are what they were."""

import tracemalloc

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.benchmark.predicted import DerivedValue
from orchestrator.inference.options import PredictOptions
from orchestrator.inference.products.derived import derived_values
from orchestrator.inference.products.dicom_object import Segment
from orchestrator.inference.products.dicom_seg import _segments_of
from orchestrator.inference.products.extras_memory import extras_bytes
from orchestrator.inference.products.overlays import _counts, _median, overlay_pngs
from orchestrator.training.nnunet.prediction_memory import StoredImage

SHAPE = (200, 120, 130)
NUM_VOXELS = 200 * 120 * 130


def most_bytes(make):
    """What numpy holds of new memory at most."""
    tracemalloc.start()
    made = make()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    del made
    return most


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 1.0])
def test_planes_go_through_the_median_of_what_was_found(share):
    random = np.random.default_rng(round(1000 * share))
    for _ in range(20):
        shape = tuple(random.integers(1, 24, 3))
        labels = ((random.random(shape) < share) * random.integers(1, 4, shape)).astype(np.uint8)
        places = np.nonzero(labels)
        expected = [
            int(np.median(where)) if where.size else size // 2 for where, size in zip(places, shape, strict=True)
        ]
        assert [_median(counts) for counts in _counts(labels)] == expected


def test_pictures_need_no_copy_of_an_image():
    image = sitk.GetImageFromArray(np.arange(NUM_VOXELS, dtype=np.float64).reshape(SHAPE))
    labels = sitk.GetImageFromArray(np.ones(SHAPE, np.uint8))
    image.SetDirection((-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
    # A sample of the intensities, and its percentiles: of an image that is so small, of all voxels.
    assert most_bytes(lambda: overlay_pngs(image, labels)) < 13 * NUM_VOXELS


def test_segments_and_derived_values_take_a_few_bytes_a_voxel():
    labels = np.random.default_rng(0).integers(0, 5, SHAPE).astype(np.uint8)
    apart = [Segment(name=f"s{label}", labels=(label,)) for label in range(1, 5)]
    assert most_bytes(lambda: _segments_of(labels, apart)) < 1.5 * NUM_VOXELS
    overlapping = [Segment(name=f"s{label}", labels=tuple(range(1, label))) for label in range(2, 5)]
    assert most_bytes(lambda: _segments_of(labels, overlapping)) < 3.5 * NUM_VOXELS
    structures = {f"s{label}": (label,) for label in range(1, 5)}
    wanted = [DerivedValue(name="s1", title="", part=("s1",), whole=("s2",), rather_than=("s3",))]
    spacing = (3.0, 0.75, 0.75)
    header = StoredImage(shape=SHAPE, spacing_mm=spacing, voxel_bytes=2)
    said = extras_bytes(header, PredictOptions(study="study.yaml"), structures=structures)
    taken = most_bytes(lambda: derived_values(labels, spacing_mm=spacing, structures=structures, wanted=wanted))
    assert labels.nbytes + taken <= said + 2**20
    assert said <= 1.6 * (labels.nbytes + taken)


@pytest.mark.parametrize(
    ("asked", "each"),
    [
        ({}, 0),
        # ITK's image twice while it is read; an image of small numbers beside the label map that is read so.
        ({"overlays": True}, 16),
        ({"dicom_rtstruct": True}, 16),
        # The label map, the number of each segment, and three times the bits of three.
        ({"dicom_seg": True}, 2 + 3 * 3 / 8),
    ],
)
def test_what_is_made_of_a_label_map_is_counted(asked, each):
    header = StoredImage(shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0), voxel_bytes=8)
    structures = {"one": (1,), "two": (2,), "three": (3, 4)}
    said = extras_bytes(header, PredictOptions(**asked), structures=structures)
    described = 3 * SHAPE[0] * 24 * 1024 if "dicom_seg" in asked else 0
    assert said == pytest.approx(each * NUM_VOXELS + described)
