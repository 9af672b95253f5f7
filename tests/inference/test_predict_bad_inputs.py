"""Claims about images that are none, and zips that are no models: one line, exit code 2, nothing is written."""

import gzip
import json
import os
import zipfile

import dicom_phantom as phantom
import numpy as np
import pytest
import SimpleITK as sitk
from test_export_and_import import HOSTILE, rewritten

from bench.instruments.stock_models import labels_of, small_plans, write_image, write_model
from orchestrator.cli.predict import main
from orchestrator.inference.models import SETTINGS


@pytest.fixture(scope="module", params=[None, "LPS"], ids=["files as they are", "turned first"])
def model(request, tmp_path_factory):
    path = write_model(tmp_path_factory.mktemp("model"), small_plans(), labels=labels_of(3))
    settings = {"tile_step_size": 0.5, "mirrors": False, "orientation": request.param}
    (path / SETTINGS).write_text(json.dumps({"prediction": settings}))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Bytes of a sound image in three formats."""
    folder = tmp_path_factory.mktemp("whole")
    (path,) = write_image(folder / "x", shape=(9, 20, 18))
    image = sitk.ReadImage(str(path))
    for ending in (".nrrd", ".mha", ".gipl"):
        sitk.WriteImage(image, str(folder / f"x{ending}"))
    return {".nii.gz": path.read_bytes()} | {
        ending: (folder / f"x{ending}").read_bytes() for ending in (".nrrd", ".mha", ".gipl")
    }


def written(name, content):
    def write(folder, whole):
        (folder / name).write_bytes(content(whole) if callable(content) else content)
        return folder / name

    return write


def image_of(name, array, *, is_vector=False):
    def write(folder, whole):
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=is_vector), str(folder / name))
        return folder / name

    return write


def damaged(name):
    """A compressed file with a hole in it, which ITK reads without a word."""

    def write(folder, whole):
        array = np.random.default_rng(0).normal(0, 100, (20, 32, 32)).astype(np.int16)
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name), useCompression=True)
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2 : len(content) // 2 + 200] = bytes(200)
        (folder / name).write_bytes(content)
        sitk.ReadImage(str(folder / name))
        return folder / name

    return write


def changed(place, value):
    """A NIfTI with other bytes in its header."""

    def content(whole):
        header = bytearray(gzip.decompress(whole[".nii.gz"]))
        header[place : place + len(value)] = value
        return gzip.compress(bytes(header))

    return written("x.nii.gz", content)


def of_dicom(*files):
    def write(folder, whole):
        for name, content in files:
            (folder / name).write_bytes(content)
        return folder

    return write


def _pipe(folder, whole):
    os.mkfifo(folder / "x.nii.gz")
    return folder


def _circle(folder, whole):
    (folder / "x.nii.gz").symlink_to(folder / "x.nii.gz")
    return folder / "x.nii.gz"


def _one_slice(folder, whole):
    phantom.write_series(folder, num=1)
    return folder


WRONG = {
    "a missing file": lambda folder, whole: folder / "none.nii.gz",
    "an empty folder": lambda folder, whole: folder,
    "a folder of texts": lambda folder, whole: written("notes.txt", b"x")(folder, whole).parent,
    "a text": written("x.txt", b"no image"),
    "a device": lambda folder, whole: "/dev/zero",
    "a pipe": _pipe,
    "a link to itself": _circle,
    "an empty file": written("x.nii.gz", b""),
    "half a NIfTI": written("x.nii.gz", lambda whole: whole[".nii.gz"][:800]),
    "a text that is called NIfTI": written("x.nii.gz", b"no image at all" * 99),
    "an archive of nothing": written("x.nii.gz", gzip.compress(b"")),
    "a NIfTI of no voxels": changed(42, b"\0\0"),
    "a NIfTI of numbers that there are none of": changed(70, b"\x37\0"),
    "a NIfTI that promises more than it has": changed(42, b"\xff\x1f\xff\x1f"),
    "half an NRRD": written("x.nrrd", lambda whole: whole[".nrrd"][:400]),
    "half a MetaImage": written("x.mha", lambda whole: whole[".mha"][:400]),
    "half an uncompressed NIfTI": written("x.nii", lambda whole: gzip.decompress(whole[".nii.gz"])[:4000]),
    "half a GIPL": written("x.gipl", lambda whole: whole[".gipl"][:4000]),
    "a GIPL of nothing": written("x.gipl", b"\0" * 9999),
    "a MetaImage that is damaged": damaged("x.mha"),
    "an NRRD that is damaged": damaged("x.nrrd"),
    "an NRRD of text": written("x.nrrd", b"NRRD0004\ntype: lies\n\n"),
    "four axes": image_of("x.nii.gz", np.ones((2, 4, 5, 6), np.int16)),
    "colours": image_of("x.nii.gz", np.ones((4, 5, 6, 3), np.uint8), is_vector=True),
    "complex numbers": image_of("x.nii.gz", np.ones((4, 5, 6), np.complex64)),
    "DICOM of nothing": of_dicom(("a.dcm", b"")),
    "DICOM that ends early": of_dicom(("a.dcm", b"\0" * 128 + b"DICM")),
    "DICOM of one slice": _one_slice,
    "a table of nothing": written("cases.csv", b""),
    "a table of bytes": written("cases.csv", b"\xff\xfe\0case"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_image_is_one_line_and_nothing_is_written(kind, model, whole, tmp_path, capfd):
    (tmp_path / "in").mkdir()
    source = WRONG[kind](tmp_path / "in", whole)
    before = sorted(tmp_path.rglob("*"))
    assert main([str(source), "--model", str(model), "--output", str(tmp_path / "out"), "--device", "cpu"]) == 2
    told = capfd.readouterr()
    lines = [line for line in told.err.splitlines() if "cases to predict; " not in line]
    assert len(lines) == 1, told.err
    assert lines[0].startswith(("error: ", "failed: "))
    assert told.out == ""
    rest = [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "out" not in path.parents and path.name != "out"]
    assert rest == before
    assert not list((tmp_path / "out").rglob("x.*"))


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_zip_that_is_no_model_is_refused_by_its_name(kind, tmp_path, capfd):
    path = write_model(tmp_path / "made", small_plans(), labels=labels_of(3))
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as target:
        for file in sorted(path.rglob("*")):
            if file.is_file():
                target.write(file, file.relative_to(tmp_path / "made"))
    changes, words = HOSTILE[kind]
    hostile = rewritten(archive, tmp_path / "hostile.zip", **changes)
    (image,) = write_image(tmp_path / "x", shape=(9, 20, 18))
    before = sorted(tmp_path.rglob("*"))
    code = main([str(image), "--model", str(hostile), "--output", str(tmp_path / "out"), "--device", "cpu"])
    told = capfd.readouterr()
    assert code == 2, told
    assert told.err.startswith(f"error: {hostile}: ")
    assert words in told.err
    assert told.err.count("\n") == 1
    assert "executed" not in told.out
    assert sorted(tmp_path.rglob("*")) == before
