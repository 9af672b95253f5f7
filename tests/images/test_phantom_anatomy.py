"""Phantoms look like thorax CTs: tissues, sides, lesions and scanners."""

import numpy as np
import pytest

from orchestrator.phantoms.anatomy import Phantom, make_phantom
from orchestrator.phantoms.scanner import LOOKS
from orchestrator.phantoms.shapes import TubeSegment, ValueNoise, centred_grid, stable_seed, tubes


@pytest.fixture(scope="module")
def covid() -> Phantom:
    return make_phantom(seed=1, look=LOOKS["coronacases"], lesions=("infection",))


@pytest.fixture(scope="module")
def cancer() -> Phantom:
    return make_phantom(seed=2, look=LOOKS["nsclc"], lesions=("tumour", "effusion"))


def middle(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)


def test_a_stable_seed_is_the_head_of_the_sha256_of_its_parts() -> None:
    # sha256("0/patient") begins with these bytes (little endian), shifted by one bit.
    assert stable_seed(0, "patient") == int.from_bytes(bytes.fromhex(SHA_OF_0_PATIENT), "little") >> 1


SHA_OF_0_PATIENT = "1bd24a02d3fb23bf"


def test_the_same_seed_gives_the_same_voxels_and_another_seed_others(covid: Phantom) -> None:
    again = make_phantom(seed=1, look=LOOKS["coronacases"], lesions=("infection",))
    other = make_phantom(seed=3, look=LOOKS["coronacases"], lesions=("infection",))
    assert np.array_equal(again.image, covid.image)
    assert np.array_equal(again.infection, covid.infection)
    assert other.image.shape != covid.image.shape or not np.array_equal(other.image, covid.image)


def test_slabs_do_not_change_a_phantom(covid: Phantom, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.phantoms.anatomy.SLAB_VOXELS", 5 * covid.image[0].size)
    slabs = make_phantom(seed=1, look=LOOKS["coronacases"], lesions=("infection",))
    assert np.abs(slabs.image.astype(int) - covid.image).max() <= 1
    assert np.mean(slabs.infection != covid.infection) < 1e-4


def test_the_left_lung_is_on_the_larger_x_and_smaller(covid: Phantom, cancer: Phantom) -> None:
    for phantom in (covid, cancer):
        left, right = phantom.lungs == 1, phantom.lungs == 2
        assert middle(left)[2] > middle(right)[2]
        assert left.sum() < right.sum()


def test_lungs_have_the_volume_of_an_adults(covid: Phantom, cancer: Phantom) -> None:
    for phantom in (covid, cancer):
        litres = np.count_nonzero(phantom.lungs) * np.prod(phantom.spacing_mm) / 1e6
        assert 2.5 < litres < 6.5


def test_organs_lie_where_they_belong(covid: Phantom) -> None:
    lungs, heart, cord = middle(covid.lungs > 0), middle(covid.heart), middle(covid.spinal_cord)
    assert heart[1] < lungs[1] < cord[1]  # y grows to the back
    assert heart[2] > cord[2]  # the heart is left of the midline
    assert middle(covid.trachea)[0] > lungs[0]  # z grows to the head
    assert middle(covid.trachea)[1] < middle(covid.esophagus)[1] < cord[1]


def test_organs_and_lungs_do_not_overlap_and_lesions_lie_in_the_lungs(covid: Phantom, cancer: Phantom) -> None:
    assert not np.any(covid.heart & (covid.lungs > 0))
    assert not np.any(covid.spinal_cord & (covid.lungs > 0))
    assert covid.infection.any()
    assert np.all(covid.lungs[covid.infection] > 0)
    lesions = cancer.tumour | cancer.effusion
    assert cancer.tumour.any()
    assert cancer.effusion.any()
    assert np.all(cancer.lungs[lesions] > 0)
    assert not np.any(cancer.tumour & cancer.effusion)


def test_every_labelled_voxel_lies_inside_the_body(covid: Phantom) -> None:
    # From each labelled voxel to the left, right, front and back there is soft tissue or bone before the air outside.
    solid = covid.image > -200
    for axis in (1, 2):
        before = np.maximum.accumulate(solid, axis=axis)
        behind = np.flip(np.maximum.accumulate(np.flip(solid, axis), axis=axis), axis)
        assert np.mean((before & behind)[covid.lungs > 0]) > 0.999


def test_tissues_have_the_density_of_their_kind(covid: Phantom) -> None:
    healthy = (covid.lungs > 0) & ~covid.infection
    assert -900 < np.median(covid.image[healthy]) < -780
    assert 20 < np.median(covid.image[covid.heart]) < 70
    assert np.median(covid.image[covid.trachea]) < -850
    assert covid.image[:, 0, 0].max() <= -900
    assert np.count_nonzero(covid.image > 150) > 500  # bones


def test_infection_is_ground_glass_near_the_pleura_of_the_back() -> None:
    scans = [make_phantom(seed=seed, look=LOOKS["coronacases"], lesions=("infection",)) for seed in range(4)]
    density = np.concatenate([scan.image[scan.infection] for scan in scans])
    assert np.mean((density > -720) & (density < -280)) > 0.6
    assert 0.005 < np.mean(density > -100) < 0.3
    assert np.mean([middle(scan.infection)[1] - middle(scan.lungs > 0)[1] for scan in scans]) > 2


def test_the_load_of_infection_differs_between_patients() -> None:
    shares = []
    for seed in range(4):
        scan = make_phantom(seed=seed, look=LOOKS["radiopaedia"], lesions=("infection",))
        shares.append(scan.infection.sum() / np.count_nonzero(scan.lungs))
    assert min(shares) > 0.005
    assert max(shares) < 0.4
    assert max(shares) > 1.5 * min(shares)


def test_a_tumour_is_solid_and_10_to_50_mm_across() -> None:
    for seed in range(4):
        scan = make_phantom(seed=seed, look=LOOKS["msd"], lesions=("tumour",), spacing_mm=4.5)
        inner = scan.image[scan.tumour]
        assert np.median(inner) > -60
        millilitres = scan.tumour.sum() * np.prod(scan.spacing_mm) / 1000
        assert 0.5 < millilitres < 90  # spheres of 10 and 50 mm hold 0.52 and 65 ml; a second nodule adds up to 4
        assert not scan.infection.any()


def test_an_effusion_is_fluid_that_lies_at_the_back_and_bottom() -> None:
    for seed in range(4):
        scan = make_phantom(seed=seed, look=LOOKS["nsclc"], lesions=("effusion",))
        assert middle(scan.effusion)[1] > middle(scan.lungs > 0)[1] + 3
        assert middle(scan.effusion)[0] < middle(scan.lungs > 0)[0]
        assert -40 < np.median(scan.image[scan.effusion]) < 40


def test_spacing_changes_the_voxels_not_the_patient() -> None:
    coarse, fine = (
        make_phantom(seed=5, look=LOOKS["mosmed"], lesions=("infection",), spacing_mm=spacing) for spacing in (6.0, 4.0)
    )
    for name in ("lungs", "infection"):
        volumes = [np.count_nonzero(getattr(s, name)) * np.prod(s.spacing_mm) for s in (coarse, fine)]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_two_scans_of_one_patient_share_the_lungs_not_the_infection() -> None:
    first, second = (
        make_phantom(seed=seed, patient_seed=9, look=LOOKS["mosmed"], lesions=("infection",)) for seed in (1, 2)
    )
    volumes = [np.count_nonzero(s.lungs) * np.prod(s.spacing_mm) for s in (first, second)]
    assert volumes[0] == pytest.approx(volumes[1], rel=0.02)
    assert first.infection.sum() != second.infection.sum()


def test_scanners_differ_in_slices_window_and_metal() -> None:
    scans = {name: make_phantom(seed=4, look=look, lesions=()) for name, look in LOOKS.items()}
    assert scans["mosmed"].spacing_mm[0] == 8.0
    assert scans["radiopaedia"].image.min() == 38  # (-1024 + 1250) / 1500 * 255 = 38.4
    assert scans["radiopaedia"].image.max() == 255
    assert scans["coronacases"].image.max() > 2000
    assert scans["msd"].image.min() == -1024
    assert len({scan.spacing_mm for scan in scans.values()}) == len(scans)


def test_contrast_agent_brightens_the_heart_of_msd_above_that_of_mosmed() -> None:
    medians = {}
    for name in ("msd", "mosmed"):
        scan = make_phantom(seed=4, look=LOOKS[name])
        medians[name] = np.median(scan.image[scan.heart])
    assert medians["msd"] > medians["mosmed"] + 40


def test_full_resolution_has_512_pixels_of_well_below_a_millimetre() -> None:
    from orchestrator.phantoms.patient import draw_patient
    from orchestrator.phantoms.scanner import draw_protocol

    for name, slice_mm in (("mosmed", 8.0), ("structseg", 5.0), ("nsclc", 3.0)):
        protocol = draw_protocol(0, patient=draw_patient(0), look=LOOKS[name], spacing_mm=None)
        assert protocol.shape[1:] == (512, 512)
        assert 0.5 < protocol.spacing_mm[1] < 0.98
        assert protocol.spacing_mm[0] == slice_mm


def test_a_straight_tube_of_10_mm_has_the_volume_of_a_cylinder() -> None:
    grid = centred_grid(shape=(21, 61, 61), spacing_mm=(1.0, 1.0, 1.0))
    share = tubes(grid, [TubeSegment(start=(-50.0, 0.0, 0.0), end=(50.0, 0.0, 0.0), radius_mm=10.0)])
    assert share[10].sum() == pytest.approx(np.pi * 10**2, rel=0.01)


def test_value_noise_is_the_same_field_on_any_grid_with_unit_spread() -> None:
    noise = ValueNoise(seed=0, pitch_mm=20)
    coarse = noise(centred_grid(shape=(41, 41, 41), spacing_mm=(8.0, 8.0, 8.0)))
    fine = noise(centred_grid(shape=(81, 81, 81), spacing_mm=(4.0, 4.0, 4.0)))
    assert np.allclose(fine[::2, ::2, ::2], coarse, atol=1e-4)
    assert 0.7 < coarse.std() < 1.3
