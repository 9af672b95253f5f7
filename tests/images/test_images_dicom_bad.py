"""Whatever is wrong with a series is one line, which names the file that is to blame, and both looks say the same."""

from collections.abc import Callable
from pathlib import Path

import dicom_phantom as phantom
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    HTJ2KLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)
from test_images_dicom import shifted, volume

from orchestrator.images.dicom.volume import DicomVolume
from orchestrator.images.problem import SourceError


def every(**values: object) -> phantom.Change:
    def change(_: int, data: Dataset) -> None:
        for keyword, value in values.items():
            setattr(data, keyword, value) if value is not None else delattr(data, keyword)

    return change


def third(**values: object) -> phantom.Change:
    """Change the third slice from below, file 1-04.dcm."""
    return lambda index, data: every(**values)(index, data) if index == 2 else None


def at(*positions: tuple[float, float, float]) -> phantom.Change:
    def change(index: int, data: Dataset) -> None:
        data.ImagePositionPatient = list(positions[index])

    return change


def encoded(uid: str) -> phantom.Change:
    def change(index: int, data: Dataset) -> None:
        if index == 2:
            data.compress(RLELossless)
            data.file_meta.TransferSyntaxUID = uid

    return change


def drifting(index: int, data: Dataset) -> None:
    # Gaps of 4.8, 4.9, 5.0, 5.1 and 5.2 mm: each within a tenth, the third slice from below 0.3 mm off.
    data.ImagePositionPatient = [-10, -20, (30, 34.8, 39.7, 44.7, 49.8, 55)[index]]


def tilted(index: int, data: Dataset) -> None:
    data.ImageOrientationPatient = [1, 0, 0, 0, 0.8, 0.6]


def deflated(index: int, data: Dataset) -> None:
    data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def second_acquisition(index: int, data: Dataset) -> None:
    if index == 3:
        data.AcquisitionNumber = 2
        data.ImagePositionPatient = [-10, -20, 40]


def copied_beside(index: int, data: Dataset) -> None:
    if index == 3:
        data.PixelData = phantom.slice_of(2).PixelData
        data.ImagePositionPatient = [-5, -20, 40]


# id, how slices are changed, the file of the line, found, expected
HEADERS: list[tuple[str, phantom.Change, str, str, str]] = [
    # Planes turned by atan(0.75) = 36.87 degrees about x; 25 mm of table move the last slice by 25 * 0.6 sideways.
    ("tilted gantry", tilted, "",
     "a tilted gantry: the planes stand 36.9 degrees aslant on the table's way, the last of 6 slices (1-01.dcm) lies"
     " 15.0 mm beside the first", "slices stacked at a right angle"),
    ("slight tilt", at(*((-10, -20 + 0.1 * z, 30 + 5 * z) for z in range(6))), "",
     "the planes stand 1.1 degrees aslant on the table's way, the last of 6 slices (1-01.dcm) lies 0.5 mm", "stacked"),
    ("drifting distances", drifting, "", "slice distances that drift: 1-04.dcm at 39.70 mm lies 0.30 mm from its place",
     "one slice every 5 mm, each within 0.25 mm and a tenth of the distance"),
    ("gap", at(*((-10, -20, z) for z in (30, 35, 40, 50, 55, 60))), "",
     "slices 40.00 mm and 50.00 mm, 10.00 mm apart, next to each other among 6 slices (1-04.dcm, 1-03.dcm)",
     "one slice every 5.00 mm"),
    ("one slice beside", third(ImagePositionPatient=[-9, -20, 40]), "", "lies 1.00 mm beside the one before (1-04.dcm)",
     "slices on one line"),
    ("all at one height", every(ImagePositionPatient=[-10, -20, 30]), "", "two slices at 30.00 mm", "one slice a"),
    ("two acquisitions at one position", second_acquisition, "",
     "two slices at 40.00 mm, 1-03.dcm and 1-04.dcm, 0.00 mm apart and with other voxels (acquisitions 2 and 1)",
     "one slice a position"),
    ("a copy beside its place", copied_beside, "", "1-03.dcm and 1-04.dcm, 5.00 mm apart and with the same voxels",
     "one slice a position"),
    ("two acquisitions between each other", lambda index, data: every(AcquisitionNumber=index % 2 + 1)(index, data), "",
     "slices of acquisitions 1 and 2 that lie between each other", "slices of one acquisition"),
    ("projections", every(ImageType=["DERIVED", "SECONDARY", "MIP"]), "", "(6 of projection)", "CT"),
    ("a row too few", every(Rows=7), "1-01.dcm", "160 bytes of pixels, a row or more too many", "140 for 10 x 7"),
    ("turned in the plane", third(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), "",
     "slices that are turned to each other or have other voxels (1-04.dcm", "parallel slices"),
    ("slightly turned", third(ImageOrientationPatient=[0.9998, 0.02, 0, -0.02, 0.9998, 0]), "",
     "slices that are turned to each other or have other voxels (1-04.dcm", "parallel slices"),
    ("other voxels", third(PixelSpacing=[1.5, 2.1]), "", "or have other voxels (1-04.dcm: a corner lies 0.90 mm",
     "voxels of one size"),
    ("other size", third(Rows=4, Columns=20), "", "slices of different sizes in one series (1-04.dcm: 20 x 4; 5 others:"
     " 10 x 8)", "one size"),
    ("two patients", third(PatientID="LUNG1-002"), "",
     "slices of different patients in one series (1-04.dcm: LUNG1-002; 5 others: LUNG1-001)", "one patient"),
    ("two patients of three slices", lambda index, data: every(PatientID="AB"[index % 2])(index, data), "",
     "slices of different patients in one series (1-01.dcm: B; 3 others: A)", "one patient"),
    ("two coordinate systems", third(FrameOfReferenceUID="1.2.3"), "", "slices of different coordinate systems",
     "slices of one coordinate system"),
    ("no position", third(ImagePositionPatient=None), "1-04.dcm", "a slice with no ImagePositionPatient", "3 numbers"),
    ("no orientation", every(ImageOrientationPatient=None), "1-01.dcm",
     "a slice with no ImageOrientationPatient, and 5 more such files beside it", "6 numbers"),
    ("no spacing", third(PixelSpacing=None), "1-04.dcm", "a slice with no PixelSpacing", "2 numbers"),
    ("no intercept", third(RescaleIntercept=None), "1-04.dcm", "a slice with no RescaleIntercept", "1 number"),
    ("slope 0", third(RescaleSlope="0"), "1-04.dcm", "a slice with RescaleSlope 0", "Hounsfield units"),
    ("spacing 0", third(PixelSpacing=[0, 2]), "1-04.dcm", "PixelSpacing that is not positive", "2 distances"),
    ("no direction", third(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "1-04.dcm",
     "ImageOrientationPatient '1.0\\0.0\\0.0\\1.0",
     "two unit vectors at a right angle"),
    ("colours", every(SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0), "1-01.dcm",
     "a slice of 3 values a voxel, RGB", "one value a voxel"),
    ("dark is high", third(PhotometricInterpretation="MONOCHROME1"), "1-04.dcm",
     "a slice of 1 value a voxel, MONOCHROME1",
     "MONOCHROME2"),
    ("12 bits in 12", third(BitsAllocated=12), "1-04.dcm", "numbers of 12 bits up to bit 11 in 12", "8 or 16 bits"),
    ("12 bits in 32", every(BitsAllocated=32), "1-01.dcm", "numbers of 12 bits up to bit 11 in 32", "8 or 16 bits"),
    ("upper bits", third(HighBit=15), "1-04.dcm", "numbers of 12 bits up to bit 15 in 16", "the lower ones are used"),
    ("two frames", third(NumberOfFrames="2"), "1-04.dcm", "2 frames in one file", "a file a slice"),
    ("enormous", third(Rows=65535, Columns=65535), "1-04.dcm", "a slice of 65535 x 65535 voxels", "2 to 8192"),
    ("short pixels", third(PixelData=b"\0" * 158), "1-04.dcm", "a slice cut short: 158 bytes of pixels",
     "160 for 10 x 8 voxels"),
    ("no pixels", third(PixelData=None), "1-04.dcm", "a slice that ends before its pixels",
     "PixelData"),
    ("HTJ2K", encoded(HTJ2KLossless), "1-04.dcm", "the encoding High-Throughput JPEG 2000 Image Compression",
     "JPEG 2000"),
    ("deflated", deflated, "1-01.dcm", "a deflated DICOM file, and 5 more such files",
     "a plain or JPEG-compressed one"),
    ("no series", third(SeriesInstanceUID=None), "1-04.dcm", "a slice with no SeriesInstanceUID",
     "the UID of its series"),
    ("a series a slice", lambda index, data: every(SeriesInstanceUID=f"1.2.{index + 3}")(index, data), "",
     "a series of 1 slice", "at least 2 slices"),
    ("magnetic resonance", every(Modality="MR"), "", "no CT series among 1 folders with DICOM files (6 of modality MR)",
     "one series of modality CT"),
    ("screen shots", every(SOPClassUID=SecondaryCaptureImageStorage), "", "(6 of Secondary Capture Image Storage)",
     "CT"),
    ("enhanced CT", every(SOPClassUID=EnhancedCTImageStorage), "",
     "(6 of Enhanced CT Image Storage (many slices in one file))", "a file a slice"),
    ("scouts", every(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "", "(6 of localizer)", "CT"),
]  # fmt: skip


def refusals(folder: Path, *masks: Path) -> tuple[SourceError, SourceError]:
    """Return the errors of the quick and of the thorough look."""
    with pytest.raises(SourceError) as quick:
        volume(folder, *masks).read_geometry()
    with pytest.raises(SourceError) as thorough:
        volume(folder, *masks).read()
    return quick.value, thorough.value


@pytest.mark.parametrize(
    ("change", "file", "found", "expected"), [row[1:] for row in HEADERS], ids=[row[0] for row in HEADERS]
)
def test_headers_that_make_no_volume_are_refused_by_both_looks(tmp_path, change, file, found, expected):
    phantom.write_series(tmp_path, change)
    quick, thorough = refusals(tmp_path)
    assert str(quick) == str(thorough)
    assert found in quick.problem.found
    assert expected in quick.problem.expected
    assert Path(quick.problem.path) == tmp_path / file
    assert "\n" not in str(quick)
    assert "\x1b" not in str(quick)


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)]) and None


def cut_compressed(path: Path) -> None:
    data = phantom.slice_of(2)
    data.compress(RLELossless)
    phantom.save(data, path)
    path.write_bytes(path.read_bytes()[:-20])


def endless(path: Path) -> None:
    # A sequence of a million items of which none has an end.
    phantom.insert_element(path, b"\x09\0\x10\x10SQ\0\0" + b"\xff" * 4 + b"\xfe\xff\0\xe0\0\0\0\0" * 1_000_000)


def position(text: bytes) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = path.read_bytes()
        at = content.index(b"\x20\0\x32\0DS") + 6
        end = at + 2 + int.from_bytes(content[at : at + 2], "little")
        path.write_bytes(content[:at] + len(text).to_bytes(2, "little") + text + content[end:])

    return spoil


def private_encoding(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.113619.5.2\0\0"))


FILES: list[tuple[str, Callable[[Path], None], str]] = [
    ("cut in the pixels", cut(0.9), "a slice cut short:"),
    ("cut in the header", cut(0.7), "a DICOM file cut short within its header"),
    ("cut before its UID", cut(0.5), "a slice that ends before its SeriesInstanceUID"),
    ("cut within an element", lambda path: phantom.insert_element(path, b"\x09\0\x10\x10LO\xff\x0f"),
     "cut short within its header"),
    ("cut in the UID of its class", lambda path: path.write_bytes(path.read_bytes()[:180]) and None,
     "a DICOM file cut short within its header"),
    ("cut at the start", lambda path: path.write_bytes(path.read_bytes()[:150]) and None, "does not say what it is"),
    ("comma for a point", position(b"-10,0\\-20,0\\40"), "ImagePositionPatient '-10,0\\-20,0\\40'"),
    ("not a number", position(b"nan\\-20\\40 "), "ImagePositionPatient 'nan\\-20\\40'"),
    ("infinite", position(b"-10\\1e999\\40"), "ImagePositionPatient '-10\\1e999\\40'"),
    ("unprintable", position(b"\x1b[2J\\2\\3 "), "ImagePositionPatient '?[2J\\2\\3'"),
    ("two numbers", position(b"-10\\-20 "), "ImagePositionPatient '-10\\-20'"),
    ("private encoding", private_encoding, "the encoding 1.2.840.113619.5.2"),
    ("cut within compressed pixels", cut_compressed, "compressed pixels that do not end within its"),
    ("empty", lambda path: path.write_bytes(b"") and None, "a file of 0 bytes that is not DICOM"),
    ("a link to what was not fetched", lambda path: path.unlink() or path.symlink_to("/nowhere/annex"),
     "a link to /nowhere/annex, which is not there"),
    ("a web page", lambda path: path.write_text("<html>" * 99) and None, "a file of 594 bytes that is not DICOM"),
    ("nested without length", lambda path: phantom.insert_element(path, phantom.nested(20_000, has_length=False)),
     "sequences nested hundreds deep"),
    ("a million items", endless, "more than 50000 reads"),
    ("zeros", lambda path: path.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 500) and None, "does not say what it is"),
]  # fmt: skip


@pytest.mark.parametrize("place", [2, 5], ids=["middle", "topmost"])
@pytest.mark.parametrize(("spoil", "found"), [row[1:] for row in FILES], ids=[row[0] for row in FILES])
def test_a_broken_file_is_named(tmp_path, place, spoil, found):
    files = phantom.write_series(tmp_path)
    spoil(files[place])
    quick, thorough = refusals(tmp_path)
    assert str(quick) == str(thorough)
    assert quick.problem.path == str(files[place])
    assert found in quick.problem.found


@pytest.mark.parametrize("name", ["IM{}", "1.2.826.{}", "{}.ima"])
@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b"\0" * 100,
        b"\0" * 5000,
        b"II*\0" + b"\1" * 60,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
    ],
    ids=["empty", "the preamble", "never filled", "a preamble of TIFF", "not fetched by Git"],
)
def test_what_is_left_of_a_slice_is_named_if_its_name_is_like_those_of_the_others(tmp_path, rest, name):
    files = [
        file.rename(file.with_name(name.format(index))) for index, file in enumerate(phantom.write_series(tmp_path))
    ]
    files[5].write_bytes(rest)
    quick, thorough = refusals(tmp_path)
    assert str(quick) == str(thorough)
    assert quick.problem.path == str(files[5])
    assert f"a file of {len(rest)} bytes that is not DICOM" in quick.problem.found


def test_marks_and_texts_beside_a_series_are_passed_over(tmp_path):
    for file in phantom.write_series(tmp_path):
        file.rename(file.with_suffix(""))
    for name, content in {"VERSION": b"1.0", "done.txt": b"", ".lock": b"", "thumbs.db": b"\0" * 99}.items():
        (tmp_path / name).write_bytes(content)
    loaded = volume(tmp_path).read()
    assert loaded.image.GetSize() == (10, 8, 6)
    assert loaded.notes == ()


def test_a_link_that_leads_nowhere_in_another_folder_is_noted_and_no_file_of_the_volume(tmp_path):
    files = phantom.write_series(tmp_path / "ct")
    (tmp_path / "contours").mkdir()
    (tmp_path / "contours" / "1-1").symlink_to("/nowhere/annex")
    found = DicomVolume((tmp_path / "ct", tmp_path / "contours"), name=str(tmp_path))
    (note,) = found.read().notes
    assert "contours/1-1: found a link to /nowhere/annex, which is not there" in note
    assert sorted(found.paths()) == sorted(files)


def test_a_file_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    files = phantom.write_series(tmp_path)
    opened = Path.open

    def refused(self: Path, *args: object) -> object:
        if self == files[1]:
            raise PermissionError(13, "Permission denied")
        return opened(self, *args)

    monkeypatch.setattr(Path, "open", refused)
    assert "Permission denied" in refusals(tmp_path)[0].problem.found


def test_a_folder_that_is_gone_and_a_file_that_shrinks_are_named(tmp_path, monkeypatch):
    files = phantom.write_series(tmp_path)
    with pytest.raises(SourceError, match="gone: found what cannot be read"):
        DicomVolume((tmp_path / "gone",), name=str(tmp_path)).read_geometry()
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"\0" * 100)
    with pytest.raises(SourceError, match="a file that was cut while it was read") as raised:
        volume(tmp_path).read()
    assert raised.value.problem.path == str(files[0])


def test_a_broken_file_in_another_folder_is_left_out_with_a_note(tmp_path):
    phantom.write_series(tmp_path / "ct")
    (tmp_path / "contours").mkdir()
    (tmp_path / "contours" / "1-1.dcm").write_bytes(b"\0" * 99)
    (note,) = volume(tmp_path).read().notes
    assert "contours/1-1.dcm: found a file of 99 bytes that is not DICOM" in note


def test_series_of_which_none_is_to_be_preferred_are_refused_with_both(tmp_path):
    phantom.write_series(tmp_path / "a", series=1)
    phantom.write_series(tmp_path / "b", series=2)
    phantom.write_mask(tmp_path / "mask.nii.gz")
    quick, thorough = refusals(tmp_path, tmp_path / "mask.nii.gz")
    assert str(quick) == str(thorough)
    assert "2 CT series, 2 of which lie on the grid of the masks" in str(quick)
    assert (
        f"'Thorax 1', 6 slices ({phantom.ROOT}.1: 1-01.dcm ...); 'Thorax 2', 6 slices ({phantom.ROOT}.2: 2-01.dcm ...)"
        in str(quick)
    )


def test_series_of_which_none_has_the_grid_of_the_masks_are_refused_with_the_reasons(tmp_path):
    phantom.write_series(tmp_path / "a", shifted, series=1)
    broken = phantom.write_series(tmp_path / "b", series=2)[3]
    cut(0.9)(broken)
    phantom.write_mask(tmp_path / "mask.nii.gz")
    quick, thorough = refusals(tmp_path, tmp_path / "mask.nii.gz")
    assert str(quick) == str(thorough)
    assert quick.problem.path == str(broken)
    assert "none of which lies on the grid of the masks" in str(quick)
    assert "a slice cut short" in str(quick)


def test_without_a_mask_nothing_is_chosen(tmp_path):
    phantom.write_series(tmp_path / "a", series=1)
    phantom.write_series(tmp_path / "b", shifted, series=2)
    (tmp_path / "mask.nii.gz").write_bytes(b"no mask")
    for masks in ((), (tmp_path / "mask.nii.gz",)):
        assert "no mask can be read" in str(refusals(tmp_path, *masks)[0])


def test_series_of_two_patients_are_refused(tmp_path):
    phantom.write_series(tmp_path, series=1)
    phantom.write_series(tmp_path, every(PatientID="B"), series=2)
    assert "CT series of 2 patients (B, LUNG1-001)" in str(refusals(tmp_path)[0])


def test_mutated_headers_are_read_or_refused_and_nothing_else(tmp_path):
    path = phantom.write_series(tmp_path, num=3)[1]
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(500):
        changed = bytearray(content)
        for position in rng.integers(128, len(content) - 160, rng.integers(1, 6)):
            changed[position] = rng.integers(256)
        path.write_bytes(changed)
        try:
            assert volume(tmp_path).read_geometry().size[:2] == (10, 8)
        except SourceError as error:
            assert "\n" not in str(error)  # noqa: PT017
