"""Claims about grids: headers are turned as volumes are, and two are one if no voxel lies elsewhere."""

import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.images.geometry import (
    Geometry,
    geometry_of,
    grid_difference,
    lps_order,
    order_onto,
    orient_to_lps,
    reordered,
)

CHEST = Geometry(
    size=(512, 512, 300),
    spacing_mm=(0.703125, 0.703125, 1.25),
    origin_mm=(-179.6484375, -180.0, -310.25),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "RPI", "SAL", "PIR", "ASR"])
@pytest.mark.parametrize("tilt_rad", [0.0, 0.2])
def test_the_geometry_of_a_header_follows_the_volume(orientation, tilt_rad):
    image = sitk.DICOMOrient(sitk.Image([4, 5, 6], sitk.sitkInt16), orientation)
    image.SetSpacing((1.0, 2.0, 3.0))
    image.SetOrigin((10.0, -20.0, 30.0))
    cos, sin = np.cos(tilt_rad), np.sin(tilt_rad)
    tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    image.SetDirection((tilt @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    found, expected = geometry_of(image).to_lps(), geometry_of(orient_to_lps(image))
    assert found.size == expected.size
    assert found.spacing_mm == expected.spacing_mm
    np.testing.assert_allclose(found.origin_mm, expected.origin_mm, atol=1e-9)
    np.testing.assert_allclose(found.direction, expected.direction, atol=1e-9)
    assert found.orientation == "LPS"


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "RPI", "SAL", "PIR", "ASR"])
def test_the_orientation_of_a_grid_is_named_as_itk_does(orientation):
    image = sitk.DICOMOrient(sitk.Image([4, 5, 6], sitk.sitkInt16), orientation)
    assert geometry_of(image).orientation == orientation


@pytest.mark.parametrize("orientation", ["RAS", "RPI", "SAL", "PIR", "ASR"])
def test_voxels_put_in_the_order_of_another_grid_lie_where_itk_puts_them(orientation):
    volume = sitk.GetImageFromArray(np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6))
    volume.SetSpacing((1.0, 2.0, 3.0))
    turned = sitk.DICOMOrient(volume, orientation)
    order = order_onto(geometry_of(volume), geometry_of(turned))
    np.testing.assert_array_equal(order.array(sitk.GetArrayFromImage(turned)), sitk.GetArrayFromImage(volume))
    assert grid_difference(geometry_of(volume), order.geometry(geometry_of(turned))) is None
    assert not order.changes_nothing


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "RPI", "SAL", "PIR", "ASR"])
@pytest.mark.parametrize("tilt_rad", [0.0, 0.2, math.pi / 4])
def test_an_image_is_put_in_the_order_that_itk_gives_it(orientation, tilt_rad):
    image = sitk.DICOMOrient(sitk.GetImageFromArray(np.arange(120, dtype=np.int16).reshape(4, 5, 6)), orientation)
    image.SetSpacing((1.0, 2.0, 3.0))
    cos, sin = math.cos(tilt_rad), math.sin(tilt_rad)
    tilt = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    image.SetDirection((tilt @ np.reshape(image.GetDirection(), (3, 3))).ravel().tolist())
    found, expected = reordered(image, lps_order(geometry_of(image))), orient_to_lps(image)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), sitk.GetArrayFromImage(expected))
    assert grid_difference(geometry_of(expected), geometry_of(found)) is None


def rounded(values, digits):
    return tuple(float(f"{value:.{digits}g}") for value in values)


TURNED = (math.cos(0.2), -math.sin(0.2), 0.0, math.sin(0.2), math.cos(0.2), 0.0, 0.0, 0.0, 1.0)


@pytest.mark.parametrize(
    "other",
    [
        replace(CHEST, spacing_mm=rounded(CHEST.spacing_mm, 4)),  # 0.7031, as Analyze-like headers in text have it
        replace(CHEST, spacing_mm=rounded(CHEST.spacing_mm, 3)),
        replace(CHEST, spacing_mm=tuple(float(np.float32(value)) for value in CHEST.spacing_mm)),
        replace(CHEST, origin_mm=(-179.65, -180.0, -310.25)),
        replace(CHEST, direction=(1.0, 2e-4, 0.0, -2e-4, 1.0, 0.0, 0.0, 0.0, 1.0)),
    ],
)
def test_rounding_of_a_header_leaves_a_grid_what_it_is(other):
    assert grid_difference(CHEST, other) is None
    assert grid_difference(other, CHEST) is None


@pytest.mark.parametrize(
    ("other", "name", "largest_mm"),
    [
        (replace(CHEST, origin_mm=(-179.6484375, -180.0, -309.0)), "origin", 1.25),  # a slice
        (replace(CHEST, origin_mm=(-180.0, -180.0, -310.25)), "origin", 0.3515625),  # half a voxel
        # 512 x 0.703125 mm and 512 x 0.7 mm, without the half voxel before the first.
        (replace(CHEST, spacing_mm=(0.7, 0.703125, 1.25)), "spacing", 511.5 * 0.003125),
        (replace(CHEST, spacing_mm=(1.0, 1.0, 1.0)), "spacing", None),
        (replace(CHEST, direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)), "direction", None),
        (replace(CHEST, direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)), "direction", None),
        (replace(CHEST, origin_mm=(math.nan, -180.0, -310.25)), "origin", None),
        (replace(CHEST, size=(512, 512, 299)), "size", None),
    ],
)
def test_a_grid_on_which_a_voxel_lies_elsewhere_is_another_one(other, name, largest_mm):
    difference = grid_difference(CHEST, other)
    assert [part.name for part in difference.parts] == [name]
    assert name in difference.words
    if largest_mm is not None:
        assert difference.apart.largest_mm == pytest.approx(largest_mm)


def test_the_thickness_of_a_single_slice_is_a_part_of_its_grid():
    one = replace(CHEST, size=(512, 512, 1))
    assert grid_difference(one, replace(one, spacing_mm=(0.703125, 0.703125, 5.0))) is not None


def test_a_turned_grid_is_compared_along_its_own_axes():
    turned = replace(CHEST, direction=TURNED)
    assert grid_difference(turned, turned) is None
    assert order_onto(turned, turned).changes_nothing
    assert grid_difference(CHEST, turned) is not None
