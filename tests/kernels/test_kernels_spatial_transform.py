"""Claims about the one-pass spatial transform; the reference is batchgeneratorsv2's own SpatialTransform."""

import numpy as np
import pytest
import torch
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from scipy import ndimage

from kernels.augmentation.patch_geometry import box_needed, rotation_matrix, slabs_needed
from kernels.augmentation.spatial_transform import sample_patch

INITIAL, PATCH = (26, 33, 38), (16, 20, 24)


def blobs(seed, *, shape=INITIAL, num_labels=4, num_channels=1):
    """A noisy image and soft-edged regions of labels from -1 on."""
    random = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(random.standard_normal(shape), 3)
    ranks = (smooth - smooth.min()) / (np.ptp(smooth) + 1e-9)
    image = random.standard_normal((num_channels, *shape)).astype(np.float32)
    return image, (ranks * num_labels).astype(np.int16) - 1


def stock(image, segmentation, patch, *, angles, scales):
    """What SpatialTransform makes of the given parameters: image, labels and matrix."""
    transform = SpatialTransform(
        patch, 0, False, p_rotation=1, p_scaling=1, border_mode_seg="constant", padding_value_seg=-1,
        rotation=lambda dim, **_: angles[dim], scaling=lambda dim, **_: scales[dim],
        p_elastic_deform=0,
    )  # fmt: skip
    torch.manual_seed(4)
    parameters = transform.get_parameters(image=torch.from_numpy(image))
    return (
        transform._apply_to_image(torch.from_numpy(image), **parameters).numpy(),
        transform._apply_to_segmentation(torch.from_numpy(segmentation), **parameters).numpy(),
        parameters["affine"],
    )


def ours(image, segmentation, patch, matrix):
    """The same from no more than the voxels that are needed; everything else is made useless first."""
    limits = segmentation.shape
    middle = tuple((size - 1) / 2 for size in limits)
    box = box_needed(matrix=matrix, centre=middle, patch_shape=patch, limits=limits)
    slices = tuple(slice(a, a + n) for a, n in zip(box.start, box.shape, strict=True))
    out = np.full((len(image), *patch), np.nan, np.float32), np.full(patch, -9, np.int16)
    box_image, box_segmentation = image[(slice(None), *slices)].copy(), segmentation[slices].copy()
    centre = tuple(a - b for a, b in zip(middle, box.start, strict=True))
    for *normal, along in slabs_needed(matrix=matrix, centre=centre, patch_shape=patch):
        is_unwanted = np.abs(np.tensordot(normal, np.indices(box.shape, float), 1) - along) > 1
        box_image[:, is_unwanted], box_segmentation[is_unwanted] = np.nan, 99
    sample_patch(
        box_image,
        box_segmentation,
        matrix=matrix,
        centre=centre,
        patch_image=out[0],
        patch_segmentation=out[1],
    )
    return out


@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize(
    ("angles", "scales"),
    [
        ((0.4, -0.3, 0.5), (1.0, 1.0, 1.0)),
        ((0.0, 0.0, 0.0), (0.73, 0.73, 0.73)),
        ((0.0, 0.0, 0.0), (1.37, 1.37, 1.37)),
        ((-0.52, 0.52, 0.2), (1.4, 1.4, 1.4)),
        ((0.1, 0.0, -0.5), (0.7, 0.9, 1.3)),
    ],
)
def test_a_rotated_and_scaled_volume_is_that_of_nnunet(angles, scales, num_channels):
    image, segmentation = blobs(1, num_channels=num_channels)
    expected_image, expected_labels, matrix = stock(image, segmentation[None], PATCH, angles=angles, scales=scales)
    np.testing.assert_allclose(rotation_matrix(angles, scales), matrix, atol=1e-15)
    found_image, found_labels = ours(image, segmentation, PATCH, matrix)
    np.testing.assert_allclose(found_image, expected_image, atol=5e-5)
    # What differs may only be ties within the rounding of float32.
    assert (found_labels != expected_labels[0]).mean() < 3e-4


@pytest.mark.parametrize(("angle", "scale"), [(0.0, 0.71), (2.9, 1.0), (-1.0, 1.39)])
def test_slices_are_rotated_and_scaled_as_nnunet_does_it_to_anisotropic_patches(angle, scale):
    image, segmentation = blobs(2, shape=(5, 33, 38), num_channels=2)
    patch = (5, 20, 24)
    flat = np.ascontiguousarray(image.reshape(10, 33, 38))
    angles, scales = (0.0, angle), (scale, scale)
    expected_image, expected_labels, plane = stock(flat, segmentation, patch[1:], angles=angles, scales=scales)
    matrix = rotation_matrix((angle, 0.0, 0.0), (1.0, scale, scale))
    np.testing.assert_allclose(matrix[1:, 1:], plane, atol=1e-15)
    found_image, found_labels = ours(image, segmentation, patch, matrix)
    np.testing.assert_allclose(found_image, expected_image.reshape(2, *patch), atol=5e-5)
    assert (found_labels != expected_labels).mean() < 3e-4


def test_a_point_between_two_labels_gets_that_of_the_nearest_voxel_and_else_the_lowest():
    matrix, centre = np.eye(3), (0.0, 0.0, 0.5)
    patch = np.empty((1, 1, 1, 1), np.float32), np.empty((1, 1, 1), np.int16)
    for labels, expected in (([7, 3], 7), ([3, 7], 3)):
        # Half a voxel rounds to the even neighbour, the first.
        box = np.zeros((1, 2, 2, 2), np.float32), np.broadcast_to(np.array(labels, np.int16), (2, 2, 2)).copy()
        sample_patch(*box, matrix=matrix, centre=centre, patch_image=patch[0], patch_segmentation=patch[1])
        assert patch[1].item() == expected


def test_three_labels_are_voted_on_at_once_and_a_relative_majority_wins():
    # Weights along x: 0.4 of label 1; 0.6 x 0.5 of labels 2 and 3: no label has half of all.
    labels = np.array([[[1, 2], [1, 3]], [[1, 2], [1, 3]]], np.int16)
    patch = np.empty((1, 1, 1, 1), np.float32), np.empty((1, 1, 1), np.int16)
    sample_patch(
        np.zeros((1, 2, 2, 2), np.float32),
        labels,
        matrix=np.eye(3),
        centre=(0.2, 0.5, 0.6),
        patch_image=patch[0],
        patch_segmentation=patch[1],
    )
    assert patch[1].item() == 1


def test_outside_of_the_box_the_image_is_0_and_the_label_is_that_of_padding():
    image, segmentation = np.ones((1, 4, 4, 4), np.float32), np.full((4, 4, 4), 5, np.int16)
    patch = np.empty((1, 1, 1, 12), np.float32), np.empty((1, 1, 12), np.int16)
    sample_patch(
        image, segmentation, matrix=np.eye(3), centre=(1.5, 1.5, 1.75),
        patch_image=patch[0], patch_segmentation=patch[1],
    )  # fmt: skip
    # Voxel 4 of the row lies at x = 0.25, voxel 3 a quarter beyond the border's half, voxel 7 at 3.25.
    assert patch[1].ravel().tolist() == [-1] * 4 + [5] * 4 + [-1] * 4
    np.testing.assert_allclose(patch[0].ravel(), [0, 0, 0, 0.25, 1, 1, 1, 0.75, 0, 0, 0, 0])
