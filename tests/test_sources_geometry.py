"""Headers brought to LPS without their voxels tell the same as volumes brought to LPS."""

import numpy as np
import pytest
import SimpleITK as sitk

from orchestrator.images.geometry import geometry_of, orient_to_lps


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
