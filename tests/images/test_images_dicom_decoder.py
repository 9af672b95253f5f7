"""What only the decoder finds is one line with the file; what no file is to blame for can be tried again."""

from pathlib import Path

import dicom_phantom as phantom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless, RLELossless
from test_images_dicom import JPEG_LS, signed, volume

from orchestrator.errors import StorageError
from orchestrator.images.dicom import pixels as dicom_pixels
from orchestrator.images.problem import SourceError


def nonsense(path: Path) -> None:
    data = phantom.slice_of(2)
    data.compress(RLELossless)
    data.file_meta.TransferSyntaxUID = JPEG2000Lossless
    phantom.save(data, path)


def nested_with_lengths(path: Path) -> None:
    # pydicom passes over a sequence whose length it knows; GDCM goes down into it, and dies.
    phantom.insert_element(path, phantom.nested(20_000, has_length=True))


def short_jpeg(path: Path) -> None:
    data = phantom.slice_of(2)
    data.Rows = data.Columns = 4
    data.PixelData = data.PixelData[:32]
    data.compress(RLELossless)
    data.Rows, data.Columns = 8, 10
    phantom.save(data, path)


@pytest.mark.parametrize("spoil", [nonsense, nested_with_lengths, short_jpeg])
def test_a_slice_on_which_gdcm_fails_or_dies_is_named(tmp_path, spoil):
    files = phantom.write_series(tmp_path)
    spoil(files[2])
    with pytest.raises(SourceError, match="a slice that cannot be decoded") as raised:
        volume(tmp_path).read()
    assert raised.value.problem.path == str(files[2])
    assert "expected a slice of 10 x 8 voxels" in str(raised.value)
    assert "\n" not in str(raised.value)


def decoder(path: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text(f"import os, resource, signal, sys\n{code}\n")
    monkeypatch.setattr(dicom_pixels, "_DECODER", path)


READY = "sys.stdin.buffer.read(); print('ready', flush=True)"


@pytest.mark.parametrize(
    ("code", "error", "found"),
    [
        (
            f"{READY}\nresource.setrlimit(resource.RLIMIT_CPU, (1, 9))\nwhile True: pass",
            SourceError,
            "more than a minute",
        ),
        (f"{READY}\nos.kill(os.getpid(), signal.SIGSEGV)", SourceError, "GDCM crashes, signal 11"),
        # Nothing that a file did: another attempt may do better.
        (f"{READY}\nos.kill(os.getpid(), signal.SIGKILL)", StorageError, "ended by signal 9: was the memory short"),
        ("import nothing_of_that_name", StorageError, "does not start: ModuleNotFoundError"),
    ],
    ids=["hangs", "crashes", "is killed", "does not start"],
)
def test_what_ends_the_decoder_is_told(tmp_path, monkeypatch, code, error, found):
    files = phantom.write_series(tmp_path)
    decoder(tmp_path / ".decoder.py", code, monkeypatch)
    with pytest.raises(error, match=found) as raised:
        volume(tmp_path).read()
    assert raised.value.can_retry == (error is StorageError)
    assert error is StorageError or raised.value.problem.path == str(files[0])


def test_negative_numbers_taken_for_positive_ones_are_refused(tmp_path):
    def unsigned(index: int, data: Dataset) -> None:
        signed(index, data)
        data.PixelRepresentation, data.BitsStored, data.HighBit = 0, 16, 15

    files = phantom.write_series(tmp_path, unsigned)
    with pytest.raises(SourceError) as raised:
        volume(tmp_path).read()
    # The highest is 500 + 79 - 900 = -321 in the topmost slice, which is 65215 without its sign.
    assert raised.value.problem.found == "a value of 65215 HU"
    assert raised.value.problem.path == str(files[5])


@pytest.mark.parametrize("sign", [0, 1])
def test_numbers_of_more_bits_than_the_header_says_are_refused(tmp_path, sign):
    def overflow(index: int, data: Dataset) -> None:
        data.PixelRepresentation = sign
        if index == 2:
            data.PixelData = np.full(phantom.SHAPE[1:], 4096, "<u2").tobytes()

    files = phantom.write_series(tmp_path, overflow)
    with pytest.raises(SourceError, match=r"stored numbers from 4096 to 4096; expected .* to 4095") as raised:
        volume(tmp_path).read()
    assert raised.value.problem.path == str(files[2])


def rle(data: Dataset, numbers: np.ndarray) -> None:
    data.BitsStored, data.HighBit, data.PixelData = 16, 15, numbers.tobytes()
    data.compress(RLELossless, generate_instance_uid=False)


def jpeg(data: Dataset, numbers: np.ndarray, *, folder: Path) -> None:
    """Compress by GDCM, with all 16 bits."""
    writer = sitk.ImageFileWriter()
    writer.SetImageIO("GDCMImageIO")
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(folder / "plane.dcm"))
    writer.Execute(sitk.GetImageFromArray(numbers[None]))
    written = pydicom.dcmread(folder / "plane.dcm")
    data.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    data.PixelData = encapsulate(list(generate_frames(written.PixelData, number_of_frames=1)))
    data["PixelData"].is_undefined_length = True


def compressed(data: Dataset, numbers: np.ndarray, *, folder: Path) -> None:
    """Compress 16 bits, of which the header says 12."""
    if folder.name == "rle":
        rle(data, numbers)
    else:
        jpeg(data, numbers, folder=folder)
        assert data.file_meta.TransferSyntaxUID == JPEGLosslessSV1
    data.BitsStored, data.HighBit = 12, 11


@pytest.mark.parametrize("kind", ["rle", "jpeg"])
def test_compressed_numbers_of_more_bits_than_the_header_says_are_refused(tmp_path, kind):
    """Metal of 3976 HU would be read as -120 HU."""
    (tmp_path / kind).mkdir()

    def metal(index: int, data: Dataset) -> None:
        numbers = np.frombuffer(data.PixelData, "<u2").reshape(phantom.SHAPE[1:]).copy()
        if index == 2:
            numbers[3, 4] = 5000
        compressed(data, numbers, folder=tmp_path / kind)

    files = phantom.write_series(tmp_path / "series", metal)
    with pytest.raises(SourceError, match=r"stored numbers from \d+ to 5000; expected 0 to 4095") as raised:
        volume(tmp_path / "series").read()
    assert raised.value.problem.path == str(files[2])


@pytest.mark.parametrize("kind", ["rle", "jpeg"])
def test_compressed_numbers_within_the_bits_of_the_header_are_read_whatever_their_stream_says(tmp_path, kind):
    (tmp_path / kind).mkdir()

    def wide(_: int, data: Dataset) -> None:
        numbers = np.frombuffer(data.PixelData, "<u2").reshape(phantom.SHAPE[1:])
        compressed(data, numbers, folder=tmp_path / kind)

    phantom.write_series(tmp_path / "series", wide)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(volume(tmp_path / "series").read().image), phantom.voxels())


@pytest.mark.parametrize("size", [(4, 10), (10, 8)])
@pytest.mark.parametrize("stream", [JPEG_LS, b"\xff\xd8\xff\xe8\x00\x04ab" + JPEG_LS[2:]])
def test_a_stream_of_jpeg_ls_of_another_size_than_the_header_says_is_refused(tmp_path, stream, size):
    """Of a larger one the upper rows would be read, and with rows and columns exchanged all would be scrambled."""

    def other(_: int, data: Dataset) -> None:
        data.file_meta.TransferSyntaxUID = JPEGLSLossless
        data.PixelData = encapsulate([stream + b"\0" * (len(stream) % 2)])
        data["PixelData"].is_undefined_length = True
        data.Rows, data.Columns = size

    phantom.write_series(tmp_path, other)
    with pytest.raises(SourceError, match=rf"10 x 8 voxels in its JPEG stream; expected {size[1]} x {size[0]}"):
        volume(tmp_path).read()
