"""A process of its own that decodes the slices of one series: a file that crashes GDCM ends nobody else.

Run as a script, alone and without the rest of the house, so that it starts fast. Standard input names the files, each
ended by a zero byte. For each, standard output gets one line of JSON and, unless that tells an error, the voxels.
"""

import json
import os
import re
import resource
import sys

import SimpleITK as sitk

CPU_S_PER_SLICE = 60
"""A slice of 512 x 512 voxels takes some milliseconds; only damage makes a decoder turn for a minute."""
MEMORY_BYTES = 1 << 32


def main() -> None:
    """Decode one file after the other; ends at the first that cannot be decoded."""
    stream = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets among the voxels
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    files = sys.stdin.buffer.read().decode(errors="surrogateescape").split("\0")[:-1]
    stream.write(b"ready\n")
    stream.flush()
    for file in files:
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit_s = int(used.ru_utime + used.ru_stime) + CPU_S_PER_SLICE
        resource.setrlimit(resource.RLIMIT_CPU, (limit_s, resource.RLIM_INFINITY))
        try:
            image = _decoded(file)
        except (RuntimeError, MemoryError, ValueError) as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[-1]
            # Of objects of ITK their addresses are named, which are others every time.
            words = re.sub(r"\s*\(0x[0-9a-f]+\)", "", words.removeprefix("ITK ERROR: "))
            stream.write(json.dumps({"error": words.strip()[:300]}).encode() + b"\n")
            return
        voxels = sitk.GetArrayViewFromImage(image)
        stream.write(json.dumps({"dtype": voxels.dtype.str, "shape": voxels.shape}).encode() + b"\n")
        stream.write(voxels.data)
        stream.flush()


def _decoded(file: str) -> sitk.Image:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(file)
    return reader.Execute()


if __name__ == "__main__":
    main()
