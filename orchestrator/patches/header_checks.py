"""What readers and kernels rely on in the header of a patch file.

Its checksum says that nobody has damaged it, not that this project has written it: unpacked over a chunk that is larger
than the room that kernels have, numbers would land in foreign memory.
"""

import math

import numpy as np

from orchestrator.errors import IntegrityError
from orchestrator.patches.layout import CHUNK_SHAPE, ArrayLayout, Header

_DTYPES = {np.dtype(code).newbyteorder("<").str for code in "?efdg" + np.typecodes["AllInteger"]}
_STORED = {"image": ("<f4",), "segmentation": ("|i1", "<i2")}
"""Types that are stored as 16-bit numbers; intensities have a step."""
_MAX_OFFSET = 2**24
"""Numbers up to there are whole in float32."""


def check_header(header: Header) -> None:
    """Raise IntegrityError (without the file's name) for a header that no file of this version has."""
    for name, layout in (("image", header.image), ("segmentation", header.segmentation)):
        _check_shape(name, layout)
        if len(layout.shape) != 4 or 0 in layout.shape or layout.chunk_shape != CHUNK_SHAPE:
            raise IntegrityError(f"{name} {layout.shape} in chunks of {layout.chunk_shape}; expected {CHUNK_SHAPE}")
        _check_numbers(name, layout)
    if header.image.shape[1:] != header.segmentation.shape[1:]:
        raise IntegrityError(f"an image {header.image.shape} with a segmentation {header.segmentation.shape}")
    for index, layout in enumerate(header.property_arrays):
        name = f"properties/{index}"
        _check_shape(name, layout)
        _check_numbers(name, layout)
        if layout.chunk_shape != tuple(max(size, 1) for size in layout.shape):
            raise IntegrityError(f"{name} {layout.shape} in chunks of {layout.chunk_shape}; expected it as a whole")
    if not _DTYPES.issuperset(filter(None, header.location_dtypes)):
        raise IntegrityError(f"voxels of labels with the types {header.location_dtypes}")


def _check_shape(name: str, layout: ArrayLayout) -> None:
    sizes = (*layout.shape, *layout.chunk_shape)
    if len(layout.shape) != len(layout.chunk_shape) or not all(_is_whole(size) and size >= 0 for size in sizes):
        raise IntegrityError(
            f"{name} of shape {layout.shape} in chunks of {layout.chunk_shape}; expected whole numbers"
        )


def _check_numbers(name: str, layout: ArrayLayout) -> None:
    """Compare types, codec and scale of an array with what is written together."""
    if layout.stored_dtype:
        has_step, codec = name == "image", "lanes"
        is_right = layout.stored_dtype == "<u2" and layout.dtype in _STORED.get(name, ())
    else:
        has_step, codec = False, "blosc2-zstd" if name in _STORED else "none"
        is_right = layout.offset == 0
    is_right &= layout.dtype in _DTYPES and layout.codec == codec
    is_right &= _is_whole(layout.offset) and abs(layout.offset) <= _MAX_OFFSET
    is_right &= all(type(one) is float and math.isfinite(one) for one in (layout.step, layout.max_error))
    if not is_right or layout.max_error != layout.step / 2 or (layout.step > 0) != has_step or layout.step < 0:
        raise IntegrityError(
            f"{name} of {layout.dtype} stored as {layout.stored_dtype or 'it is'} with codec {layout.codec}, offset "
            f"{layout.offset}, step {layout.step} and error {layout.max_error}; expected what is written together"
        )


def _is_whole(value: object) -> bool:
    return type(value) is int
