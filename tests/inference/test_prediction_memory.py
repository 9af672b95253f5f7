"""Claims about what is said of the memory of a prediction before it starts."""

import math
import tracemalloc
from dataclasses import replace

import nibabel
import numpy as np
import pytest
import torch

from bench.instruments.stock_models import labels_of, small_plans
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prediction_memory import StoredImage, forward_bytes, read_header, reading_bytes
from orchestrator.training.nnunet.prepared_image import read_images

SHAPE = (160, 150, 140)


@pytest.mark.parametrize("num_channels", [1, 3])
@pytest.mark.parametrize("scaling", [(1.0, 0.0), (0.5, -100.0)], ids=["as it is", "scaled"])
@pytest.mark.parametrize("reader", ["NibabelIO", "NibabelIOWithReorient"])
def test_reading_in_double_precision_takes_what_was_said_and_hardly_less(reader, scaling, num_channels, tmp_path):
    """Numbers of the file, float64 of each channel, float32 of all, and copies on the way; all of it numpy's."""
    files = []
    for channel in range(num_channels):
        image = nibabel.Nifti1Image(np.full(SHAPE, channel, np.int16), np.diag([-1.0, 1.0, 2.0, 1.0]))
        image.header.set_slope_inter(*scaling)
        files.append(tmp_path / f"case_{channel:04d}.nii.gz")
        nibabel.save(image, files[-1])
    names = ["CT", "PET", "MR"][:num_channels]
    plans = small_plans(reader=reader, channels=names)
    dataset = {"channel_names": dict(enumerate(names)), "labels": labels_of(3), "file_ending": ".nii.gz"}
    plan = Plan(plans=plans, dataset_json=dataset, configuration="3d_fullres")
    header = read_header(files[0])
    assert header.is_scaled == (scaling != (1.0, 0.0))
    read_images(files, plan)  # imports
    tracemalloc.start()
    read_images(files, plan)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    beside = reading_bytes(replace(header, shape=(0, 0, 0)), plan)  # of kernels
    assert most <= reading_bytes(header, plan) - beside + 2**20
    assert reading_bytes(header, plan) - beside <= 1.15 * most


@pytest.mark.parametrize(
    ("reader", "num_channels", "each"),
    # ITK's image and float32 of one volume; else a copy of each in its own numbers beside one of ITK's.
    [("SimpleITKIO", 1, 8 + 4), ("SimpleITKIO", 2, 3 * 8 + 2 * 4), ("SimpleITKIOWithReorient", 1, 2 * 8 + 4)],
)
def test_readers_of_itk_that_are_nnunets_own_copy_what_ours_does_not(reader, num_channels, each):
    names = ["CT", "PET"][:num_channels]
    dataset = {"channel_names": dict(enumerate(names)), "labels": labels_of(3), "file_ending": ".nii.gz"}
    plan = Plan(plans=small_plans(reader=reader, channels=names), dataset_json=dataset, configuration="3d_fullres")
    header = StoredImage(shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0), voxel_bytes=8)
    beside = reading_bytes(replace(header, shape=(0, 0, 0)), plan)
    assert reading_bytes(header, plan) - beside == each * math.prod(SHAPE)


@pytest.mark.parametrize(
    ("num_channels", "made"),
    # Image and result; then 27 values a voxel and channel, or, of what is not small, copies of both.
    [(8, 8 + 8 + 27 * 8), (32, 32 + 32 + 32 + 32)],
    ids=["PyTorch's own", "oneDNN"],
)
def test_a_convolution_takes_what_the_code_that_is_chosen_for_its_size_takes(num_channels, made):
    with torch.device("meta"):
        network = torch.nn.Conv3d(num_channels, num_channels, 3, padding=1)
        window = torch.empty((1, num_channels, 16, 128, 128))
    mib = 16 * 128 * 128 * 4 / 2**20
    assert forward_bytes(network, window) / 2**20 == pytest.approx((made - num_channels) * mib)
