"""Inputs that are wrong, odd or merely unusual, and what is right about each: one table for all commands.

`in_headers` says whether the quick look shows it, that is `doctor --quick`, a dry run on data and the start of a run;
`evaluate` what scoring says of the same mask beside a sound one: `scored`, or words of the line that refuses it.
"""

import gzip
from dataclasses import dataclass
from typing import Literal

import chest
import layouts
import numpy as np
import spoilers as by
from spoilers import GTV, MOSMED_IMAGE, MOSMED_MASK, OAR, SLICES, Spoil

Outcome = Literal["problem", "warning", "note", "untrainable", "nothing"]
CORONA = ("covid-19-ct-seg", "coronacases_001", "infection")
CORONA_LUNG = (*CORONA[:2], "lung")
NSCLC = ("nsclc-lung", "LUNG1-001", "lung")
TUMOUR = ("msd-lung-tumour", "lung_001", "infection")
GROSS, LUNGS = ("structseg-gtv", "train_7", "infection"), ("structseg-lung", "train_7", "lung")
MOSMED = ("mosmed", "study_0255", "infection")
MASKS = {GROSS: f"{GTV}/label.nii.gz", LUNGS: f"{OAR}/label.nii.gz", MOSMED: MOSMED_MASK}
"""Of the requests whose mask is a file of its own."""


@dataclass(frozen=True, kw_only=True)
class BadInput:
    """One row."""

    name: str
    spoil: Spoil
    of: tuple[str, str, str]
    """Data set, case and label set that show it."""
    outcome: Outcome
    in_headers: bool = False
    file: str = ""
    """End of the path that the line begins with, or a part of it."""
    words: tuple[str, ...] = ()
    """Parts of the line."""
    evaluate: str | None = None
    """None where there is no mask to score."""
    num_lines: int = 1


LUNG, INFECTION, CT = layouts.mask_voxels("lung"), layouts.mask_voxels("infection"), layouts.ct_voxels()
OVERLAPPING = (np.where(np.arange(16)[None, :, None] < 8, 1, 2) * (LUNG > 0)).astype(np.uint8)
NAN = CT.astype(np.float32)
NAN[3, 4, 5] = np.nan
NAN_LABELS = INFECTION.astype(np.float32)
NAN_LABELS[3, 4, 5] = np.nan
HALF = INFECTION * np.float32(0.5)
NOTHING = np.zeros(layouts.SHAPE, np.uint8)
BESIDE = NOTHING.copy()
BESIDE[3:6, 0, 5:9] = 1
WINDOWED = np.clip((CT.astype(float) + 1250) * (255 / 1500), 0, 255).astype(np.uint8)
BOTH = (MOSMED_IMAGE, MOSMED_MASK)
LABEL, IMAGE = f"{GTV}/label.nii.gz", f"{GTV}/data.nii.gz"


def lungs_of_a_chest(labels: np.ndarray, *, ct: np.ndarray | None = None) -> Spoil:
    """Give a chest that differs from each side, and a mask for it."""
    ct = chest.ct() if ct is None else ct
    return by.all_of(
        by.volume(f"{OAR}/data.nii.gz", chest.volume(ct)),
        by.volume(f"{OAR}/label.nii.gz", chest.volume(np.ascontiguousarray(labels))),
    )


# name, how it is spoilt, request, in_headers, file, words of the line, evaluate
PROBLEMS = [
    # What is missing, or there twice.
    ("no download folder", by.remove("structseg"), GROSS, True, "structseg",
     ("found no such folder", "the download structseg")),
    ("no archive", by.remove("covid-19-ct-seg/Lung_Mask.zip"), CORONA_LUNG, True, "covid-19-ct-seg/Lung_Mask",
     ("neither a folder nor an archive of that name among COVID-19-CT-Seg_20cases.zip", "Lung_Mask.zip")),
    ("no member in the zip", by.rezip("covid-19-ct-seg/Lung_Mask.zip", {"coronacases_002.nii.gz": b"x"}), CORONA_LUNG,
     True, "Lung_Mask.zip", ("no file for case coronacases_001 among coronacases_002", "coronacases_001.nii.gz")),
    ("other endings in the zip", by.rezip("covid-19-ct-seg/Lung_Mask.zip", {"a/coronacases_001.NII.GZ": b"x", "b.nii":
     b"x"}), CORONA_LUNG, True, "Lung_Mask.zip", ("among a/coronacases_001.NII.GZ, b.nii;", "coronacases_001.nii.gz")),
    ("no dataset.json", by.retar(keep=lambda name: not name.endswith("dataset.json")), TUMOUR, True, "Task06_Lung.tar",
     ("no dataset.json", "dataset.json beside imagesTr")),
    ("only files of macOS", by.retar(keep=lambda name: "labelsTr/" not in name or "/._" in name), TUMOUR, True,
     "Task06_Lung.tar/labelsTr", ("no file for case lung_001 among Task06_Lung/", "lung_001.nii.gz")),
    ("part of the challenge missing", by.remove("structseg/Lung_GTV"), GROSS, True, "structseg",
     ("no file for case train_7 among Thoracic_OAR", "Lung_GTV/7/data.nii.gz")),
    ("mask missing", by.remove(LABEL), GROSS, True, GTV, ("no file for case train_7 among data.nii.gz",)),
    ("no patient folder", by.remove("nsclc/NSCLC-Radiomics/LUNG1-001"), NSCLC, True, "nsclc",
     ("no file for case LUNG1-001 among NSCLC-Radiomics, Thoracic_Cavities", "a patient folder LUNG1-001 with a CT")),
    ("no mask of any reviewer", by.remove("nsclc/Thoracic_Cavities"), NSCLC, True, "nsclc",
     ("no file for case LUNG1-001 among nothing", "a mask LUNG1-001_thor_cav_*_reviewer.nii.gz")),
    ("masks of another ending", by.all_of(by.copy("nsclc/Thoracic_Cavities/LUNG1-001/LUNG1-001_thor_cav_primary_"
     "reviewer.nii.gz", "nsclc/LUNG1-001_thor_cav.nii"), by.remove("nsclc/Thoracic_Cavities")), NSCLC, True, "nsclc",
     ("no file for case LUNG1-001 among LUNG1-001_thor_cav.nii;", "_reviewer.nii.gz")),
    ("no masks folder", by.remove("mosmed/COVID19_1110/masks"), MOSMED, True, "mosmed/masks",
     ("no file for case study_0255 among nothing", "study_0255_mask.nii.gz")),
    ("two masks of a case", by.copy(MOSMED_MASK, "mosmed/COVID19_1110/masks/old/study_0255_mask.nii.gz"), MOSMED, True,
     "masks/", ("2 files for it", "expected one")),
    ("a folder in place of a mask", by.folder_instead(LABEL), GROSS, True, GTV, ("no file for case train_7",)),
    ("a name that turns a terminal red", by.rename(MOSMED_MASK, "a\n\x1b[31m.nii.gz"), MOSMED, True, "mosmed/COVID19",
     (r"no file for case study_0255 among a\n\x1b[31m.nii.gz; expected",)),
    ("a name that is no text", by.rename(MOSMED_MASK, "a\udcff.nii.gz"), MOSMED, True, "mosmed/COVID19",
     (r"no file for case study_0255 among a\udcff.nii.gz; expected",)),
    ("a link into nothing", by.link(LABEL, "nowhere"), GROSS, True, GTV, ("no file for case train_7",)),
    ("a pipe in place of a mask", by.pipe(LABEL), GROSS, True, GTV, ("no file for case train_7",)),
    # Archives.
    ("truncated zip", by.cut("covid-19-ct-seg/Lung_Mask.zip", share=0.6), CORONA_LUNG, True, "Lung_Mask.zip",
     ("a damaged archive of", "a whole zip archive")),
    ("zip with a wrong byte", by.changed("covid-19-ct-seg/Infection_Mask.zip", by.flip_a_byte), CORONA, True,
     "coronacases_001.nii.gz", ("a truncated or damaged file", "a whole gzip stream")),
    ("zip that is a web page", by.replace("covid-19-ct-seg/Lung_Mask.zip", b"<html>login</html>"), CORONA_LUNG, True,
     "Lung_Mask.zip", ("a damaged archive of 18 bytes", "a whole zip archive")),
    ("no NIfTI in the zip", by.rezip("covid-19-ct-seg/Lung_Mask.zip", {"coronacases_001.nii.gz": b"text" * 99}),
     CORONA_LUNG, True, "Lung_Mask.zip/coronacases_001.nii.gz", ("not a gzip file", "a NIfTI volume")),
    ("empty zip", by.rezip("covid-19-ct-seg/COVID-19-CT-Seg_20cases.zip", {}), CORONA_LUNG, True,
     "COVID-19-CT-Seg_20cases.zip", ("no file for case coronacases_001 among nothing", "coronacases_001.nii.gz")),
    ("zip by Deflate64", by.marked_zip("covid-19-ct-seg/Infection_Mask.zip", method=9), CORONA, True,
     "Infection_Mask.zip", ("is compressed with Deflate64", "Unpack it into a folder Infection_Mask beside it")),
    ("zip with a password", by.marked_zip("covid-19-ct-seg/Infection_Mask.zip", flag=1), CORONA, True,
     "Infection_Mask.zip", ("is encrypted with a password", "Unpack it into a folder Infection_Mask beside it")),
    ("zip with a file twice", by.zipped_twice("covid-19-ct-seg/Infection_Mask.zip"), CORONA, True, "Infection_Mask.zip",
     ("an archive with two files Infection_Mask/coronacases_001.nii.gz", "Unpack the right one")),
    ("truncated tar", by.cut("msd/Task06_Lung.tar", share=0.1), TUMOUR, True, "Task06_Lung.tar",
     ("a damaged archive", "a whole tar archive")),
    ("compressed tar", by.changed("msd/Task06_Lung.tar", gzip.compress), TUMOUR, True, "Task06_Lung.tar",
     ("a damaged archive", "a whole tar archive")),
    ("dataset.json of another task", by.described_otherwise('{"labels": {"0": "background"}}'), TUMOUR, True,
     "dataset.json", ("labels {'0': 'background'}", '"1": "cancer"')),
    ("dataset.json nested without end", by.described_otherwise("[" * 100_000), TUMOUR, True, "dataset.json",
     ("RecursionError",)),
    # Single files.
    ("truncated image", by.cut(IMAGE, share=0.7), GROSS, True, IMAGE, ("a truncated or damaged file",)),
    ("NIfTI cut before it was compressed", by.unpacked(IMAGE, lambda content: content[:3852]), GROSS, True, IMAGE,
     ("3852 bytes of NIfTI", "8032 bytes by its header")),
    ("mask cut before it was compressed", by.unpacked(LABEL, lambda content: content[:3852]), GROSS, True, LABEL,
     ("3852 bytes of NIfTI", "4192 bytes by its header"), "expected"),
    ("truncated mask", by.cut(LABEL, share=0.7), GROSS, True, LABEL, ("a truncated or damaged file",), "cut short"),
    ("empty file", by.replace(LABEL, b""), GROSS, True, LABEL, ("an empty file", "a NIfTI volume"), "missing"),
    ("a text", by.replace(LABEL, b"<html>"), GROSS, True, LABEL, ("not a gzip file",), "missing"),
    ("gzip of a text", by.replace(LABEL, gzip.compress(b"hello" * 500)), GROSS, True, LABEL,
     ("cannot be read as NIfTI", "a NIfTI volume"), "missing"),
    ("2D image", by.volume(IMAGE, by.sitk.GetImageFromArray(np.ones((16, 20), np.int16))), GROSS, True, IMAGE,
     ("a 2D image of size 20 x 16", "a 3D volume")),
    ("4D image", by.volume(IMAGE, by.sitk.JoinSeries([layouts.image_of(CT)] * 2)), GROSS, True, IMAGE,
     ("a 4D image of size 20 x 16 x 12 x 2", "a 3D volume")),
    # Headers that contradict themselves, of image and mask alike, so that comparing the two shows nothing.
    ("voxel size against both forms", by.header(*BOTH, pixdim=(1, 1, 1)), MOSMED, True, BOTH[0], ("pixdim",), "pixdim"),
    ("voxel size against sform alone", by.header(*BOTH, pixdim=(1, 1, 1), codes=(0, 1)), MOSMED, True, BOTH[0],
     ("pixdim",), "pixdim"),
    ("qform against a mirrored sform", by.header(*BOTH, srow_x=(1.5, 0, 0, -18.5)), MOSMED, True, BOTH[0],
     ("qform", "sform"), "qform"),
    ("no voxel size", by.header(*BOTH, pixdim=(0, 0, 0)), MOSMED, True, BOTH[0], ("pixdim",), "pixdim"),
    ("millimetres called metres", by.header(*BOTH, units=(1,)), MOSMED, True, BOTH[0], ("1500",), "1500"),
    ("millimetres called microns", by.header(*BOTH, units=(3,)), MOSMED, True, BOTH[0],
     ("voxels of 0.0015 x 0.002 x 0.005 mm",), "not on the grid"),
    ("shear", by.header(*BOTH, srow_x=(-1.5, 0.5, 0, 10), codes=(0, 1)), MOSMED, True, BOTH[0], ("shear",), "shear"),
    ("no number in a form", by.header(*BOTH, srow_x=(np.nan, 0, 0, 10)), MOSMED, True, BOTH[0], ("sform",), "sform"),
    ("more voxels than a file can hold", by.header(LABEL, dim=(3, 32767, 32767, 32767, 1, 1, 1, 1)), GROSS, True, LABEL,
     ("bytes",), "not on the grid"),
    ("no voxels", by.header(LABEL, dim=(3, 20, 0, 12, 1, 1, 1, 1)), GROSS, True, LABEL, ("dim",), "dim"),
    ("bits against the type", by.header(LABEL, bitpix=(16,)), GROSS, True, LABEL, ("16",), "16"),
    ("colours", by.header(LABEL, datatype=(128,), bitpix=(24,)), GROSS, True, LABEL, ("128",), "128"),
    ("voxels that begin nowhere", by.header(LABEL, vox_offset=(np.nan,)), GROSS, True, LABEL, ("nan",), "nan"),
    ("a stream without end", by.unpacked(LABEL, lambda content: content + bytes(10**6)), GROSS, True, LABEL,
     ("more than",), "more than"),
    # Grids.
    ("mask of another size", by.nifti(LABEL, INFECTION[:, :, :-1]), GROSS, True, LABEL,
     ("a mask of size 19 x 16 x 12 voxels", "size 20 x 16 x 12 voxels as of its image"), "size"),
    ("mask of another spacing", by.nifti(LABEL, INFECTION, spacing=(1.5, 2.0, 5.5)), GROSS, True, LABEL,
     ("spacing 1.5 x 2 x 5.5 mm", "spacing 1.5 x 2 x 5 mm"), "spacing"),
    ("mask of another origin", by.nifti(LABEL, INFECTION, origin=(-10.0, -20.0, 35.0)), GROSS, True, LABEL,
     ("origin -10 x -20 x 35 mm", "origin -10 x -20 x 30 mm"), "origin"),
    ("mask of a flipped header", by.volume(LABEL, by.directed(INFECTION, (-1, 0, 0, 0, -1, 0, 0, 0, 1))), GROSS, True,
     LABEL, ("origin -38.5 x -50 x 30 mm", "origin -10 x -20 x 30 mm"), "not on the grid"),
    ("tilted mask", by.volume(LABEL, by.directed(INFECTION, (1, 0, 0, 0, 0.9848, -0.1736, 0, 0.1736, 0.9848))), GROSS,
     True, LABEL, ("direction 1, 0, 0, 0, 0.9848, -0.1736",), "direction"),
    ("one voxel size that is no number", by.header(LABEL, pixdim=(1.5, np.nan, 5)), GROSS, True, LABEL,
     ("x nan x 5 mm",), "x nan x"),
    ("a negative voxel size", by.header(LABEL, pixdim=(1.5, -2, 5)), GROSS, True, LABEL, ("x -2 x 5 mm",), "x -2 x"),
    ("mirrored qform", by.header(LABEL, qfac=(-1,)), GROSS, True, LABEL,
     ("two forms that contradict each other", "qform of direction 1, 0, 0, 0, 1, 0, 0, 0, -1"), "two forms"),
    ("qform at another place", by.header(IMAGE, offset=(12, 20, 30)), GROSS, True, IMAGE,
     ("up to 2 mm: a qform of origin -12 x -20 x 30 mm beside an sform of origin -10 x -20 x 30 mm",)),
    ("quaternion that is none", by.header(IMAGE, quaternion=(0.9, 0.9, 0.9)), GROSS, True, IMAGE, ("length 1.559",)),
    ("wider than a scanner", by.all_of(*(by.nifti(path, voxels, spacing=(18.0, 18.0, 5.0)) for path, voxels
     in ((MOSMED_IMAGE, np.tile(CT, (1, 1, 3))), (MOSMED_MASK, np.tile(INFECTION, (1, 1, 3)))))), MOSMED, True,
     MOSMED_IMAGE, ("a volume of 1080 x 288 x 60 mm",)),
    ("far more than the header says", by.unpacked(LABEL, lambda content: content + bytes(1 << 24)), GROSS, True, LABEL,
     ("more than the 4192 bytes that its header says",), "more than the 4192 bytes"),
    # Labels.
    ("unknown label", by.nifti(LABEL, INFECTION * 9), GROSS, False, LABEL, ("unknown label values 9", "only 0 and 1"),
     "scored"),
    ("negative label", by.nifti(LABEL, INFECTION.astype(np.int16) * -1), GROSS, False, LABEL,
     ("unknown label values -1", "only 0 and 1"), "from -1"),
    ("fractional mask", by.nifti(LABEL, HALF), GROSS, False, LABEL,
     ("a mask with 18 fractional values such as 0.5", "whole numbers: 0 and 1"), "0.5"),
    ("NaN in a mask", by.nifti(LABEL, NAN_LABELS), GROSS, False, LABEL, ("1 voxels that are NaN",), "NaN"),
    ("lungs without sides", by.nifti(MASKS[LUNGS], (LUNG > 0).astype(np.uint8)), LUNGS, False, MASKS[LUNGS],
     ("no voxel of label 2 (right lung)", "both lungs"), "scored"),
    ("lungs not separable", by.nifti(MASKS[LUNGS], OVERLAPPING), LUNGS, False, MASKS[LUNGS],
     ("lungs whose centroids lie 0.0 of 16 voxels", "at least 1.6 voxels apart"), "scored"),
    # Intensities.
    ("one value everywhere", by.nifti(IMAGE, np.full(layouts.SHAPE, 7, np.int16)), GROSS, False, IMAGE,
     ("an empty image: every voxel is 7", "different intensities")),
    ("NaN", by.nifti(IMAGE, NAN), GROSS, False, IMAGE, ("1 voxels that are NaN", "finite values")),
    ("no intercept", by.nifti(IMAGE, CT + 1024), GROSS, False, IMAGE, ("from 24 to 40", "The rescale intercept")),
    ("intercept twice", by.nifti(IMAGE, CT - 1024), GROSS, False, IMAGE, ("from -2024", "each applied once")),
    ("8 bits", by.nifti(MOSMED_IMAGE, WINDOWED), MOSMED, False, MOSMED_IMAGE, ("a windowed copy of 8 bits",)),
    ("normalised", by.nifti(IMAGE, (CT / 1000).astype(np.float32)), GROSS, False, IMAGE, ("It was normalised",)),
    ("negative values as unsigned", by.nifti(IMAGE, CT.astype(np.uint16)), GROSS, False, IMAGE, ("signed numbers",)),
    ("neither HU nor window", by.nifti("covid-19-ct-seg/COVID-19-CT-Seg_20cases/coronacases_001.nii.gz", CT + 1024),
     CORONA_LUNG, False, "coronacases_001.nii.gz", ("intensities from 24 to 40", "the window 0 to 255")),
    # DICOM.
    ("no CT series", by.remove(SLICES), NSCLC, True, "LUNG1-001", ("no CT series among 2 folders", "one series")),
    ("slice missing", by.remove(f"{SLICES}/1-05.dcm"), NSCLC, True, "LUNG1-001", ("10.00 mm apart", "every 5.00 mm")),
    ("last slice missing", by.remove(f"{SLICES}/1-01.dcm"), NSCLC, True, "LUNG1-001", ("20 x 16 x 11",)),
    ("slice of another size", by.other_size_of_one_slice, NSCLC, True, "LUNG1-001", ("size",)),
    ("slice beside others", by.set_in_one(ImagePositionPatient=[20, -20, 55]), NSCLC, True, "LUNG1-001", ("beside",)),
    ("turned slice", by.set_in_one(ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), NSCLC, True, "LUNG1-001", ("turned",)),
    ("slice cut short", by.cut(f"{SLICES}/1-05.dcm", share=0.7), NSCLC, True, "1-05.dcm", ("cut short",)),
    ("no position", by.set_in_one(ImagePositionPatient=None), NSCLC, True, "1-07.dcm", ("ImagePositionPatient",)),
    ("gantry tilt", by.dicom(by.tilt), NSCLC, True, "LUNG1-001", ("tilt",)),
    ("distances that drift", by.dicom(by.drift), NSCLC, True, "LUNG1-001", ("mm",)),
    ("no rescale slope", by.set_in_all(RescaleSlope=0), NSCLC, True, ".dcm", ("RescaleSlope 0",)),
    ("no intercept in DICOM", by.set_in_all(RescaleIntercept=0), NSCLC, False, "LUNG1-001", ("The rescale intercept",)),
]  # fmt: skip

# name, how it is spoilt, request, outcome, in_headers, words of the line, evaluate
OTHERS = [
    ("empty mask of all that is trained on", by.nifti(LABEL, NOTHING), GROSS, "untrainable", False,
     ("no labelled voxel in the infection masks of any case",), "scored"),
    ("lungs upside down", lungs_of_a_chest(chest.lungs()[::-1]), LUNGS, "warning", False,
     ("of the lungs are air (below -200 HU), and 100% would be with head and feet of the mask exchanged",), None),
    ("lungs mirrored with their sides", lungs_of_a_chest(chest.lungs()[:, :, ::-1]), LUNGS, "warning", False,
     ("100% would be with left and right of the mask exchanged",), None),
    ("lungs of another scan", lungs_of_a_chest(np.roll(chest.lungs(), 26, axis=1)), LUNGS, "warning", False,
     ("of the lungs are not air",), None),
    ("lesions outside of the body", by.nifti(LABEL, BESIDE), GROSS, "warning", False,
     ("100% of the lesions lie outside of the body",), "scored"),
    ("a window that cuts off bone", by.nifti(IMAGE, np.clip(CT, -1000, 42)), GROSS, "warning", False,
     ("of its voxels are 42 HU, the largest value: a window has cut them off",), None),
    ("sides of the lungs exchanged", by.nifti(MASKS[LUNGS], np.array([0, 2, 1], np.uint8)[LUNG]), LUNGS, "note", False,
     ("left and right lung were exchanged, told by their centroids; swapped",), "scored"),
    ("header of a mask rounded", by.nifti(LABEL, INFECTION, origin=(-10.04, -20.0, 30.0)), GROSS, "note", True,
     ("header differs by 0.04 mm, taken as rounding",), "scored"),
    ("labels scaled by a tool", by.header(LABEL, scaling=(1.0000153, 0)), GROSS, "nothing", True, (), "scored"),
    ("no form", by.header(LABEL, IMAGE, codes=(0, 0)), GROSS, "note", False, ("taken as ITK does",), "not on the grid"),
    ("whole numbers as floats", by.nifti(LABEL, INFECTION.astype(np.float64)), GROSS, "nothing", True, (), "scored"),
    ("several gzip streams", by.changed(IMAGE, lambda content: gzip.compress(gzip.decompress(content)[:4000])
     + gzip.compress(gzip.decompress(content)[4000:])), GROSS, "nothing", True, (), None),
    ("axes in another order", by.volume(LABEL, by.sitk.DICOMOrient(layouts.image_of(INFECTION), "SRP")), GROSS,
     "nothing", True, (), "scored"),
    ("a link that leads back", by.link("mosmed/COVID19_1110/masks/again", "."), MOSMED, "nothing", True, (), None),
    ("files that desktops leave", by.all_of(by.copy(MOSMED_MASK, f"{GTV}/._label.nii.gz"),
     by.copy(MOSMED_MASK, "mosmed/COVID19_1110/masks/._study_0255_mask.nii.gz")), MOSMED, "nothing", True, (), None),
    ("an RT Dose beside the slices", by.foreign_object("dose.dcm", Modality="RTDOSE",
     SOPClassUID="1.2.840.10008.5.1.4.1.1.481.2"), NSCLC, "nothing", True, (), None),
    ("a slice twice", by.copy(f"{SLICES}/1-05.dcm", f"{SLICES}/1-05b.dcm"), NSCLC, "note", False, ("twice",), None),
    ("a short series beside the CT", by.other_series(CT[:3] - 50), NSCLC, "note", False, ("series",), None),
]  # fmt: skip

TWO_LINES = {
    "part of the challenge missing", "voxel size against both forms", "voxel size against sform alone",
    "qform against a mirrored sform", "no voxel size", "millimetres called metres", "shear", "no number in a form",
    "no form",
}  # fmt: skip
"""One for the image and one for the mask."""
BAD_INPUTS = [
    BadInput(
        name=name, spoil=spoil, of=of, outcome="problem", in_headers=in_headers, file=file, words=words,
        evaluate=evaluate[0] if evaluate else None,
        num_lines=2 if name in TWO_LINES else 1,
    )
    for name, spoil, of, in_headers, file, words, *evaluate in PROBLEMS
] + [
    BadInput(
        name=name, spoil=spoil, of=of, outcome=outcome, in_headers=in_headers, words=words, evaluate=evaluate,
        num_lines=2 if name in TWO_LINES else 1,
    )
    for name, spoil, of, outcome, in_headers, words, evaluate in OTHERS
]  # fmt: skip
