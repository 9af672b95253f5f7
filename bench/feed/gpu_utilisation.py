"""How busy a GPU says that it is, while something else runs."""

import ctypes
import statistics
import threading
from typing import Any

import torch

PERIOD_S = 0.5


class _Rates(ctypes.Structure):
    """NVML's `nvmlUtilization_t`."""

    _fields_ = (("gpu", ctypes.c_uint), ("memory", ctypes.c_uint))


class Utilisation:
    """Samples of the GPU that torch uses, by the driver's library: a program that is asked twice a second costs CPU."""

    def __init__(self, device: str, *, period_s: float = PERIOD_S) -> None:
        """Remember what to watch: nothing unless `device` is `cuda`."""
        self._is_watching = device == "cuda"
        self._period_s = period_s
        self._samples: list[float] = []
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to take samples."""
        if self._is_watching:
            self._watcher.start()

    def stop(self) -> None:
        """Take no more samples."""
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()

    @property
    def mean(self) -> float:
        """Mean of the samples, 0 to 100; NaN if there are none, as of a part of a GPU (MIG), which does not know."""
        return statistics.fmean(self._samples) if self._samples else float("nan")

    def _watch(self) -> None:
        library = _nvml()
        if library is None or library.nvmlInit_v2() != 0:
            return
        # Torch counts the GPUs that this process may see, the driver all of them: the name is the same.
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        gpu, rates = ctypes.c_void_p(), _Rates()
        if library.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}".encode(), ctypes.byref(gpu)) != 0:
            return
        while not self._ended.wait(self._period_s):
            if library.nvmlDeviceGetUtilizationRates(gpu, ctypes.byref(rates)) == 0:
                self._samples.append(float(rates.gpu))


def _nvml() -> Any:
    """Return the driver's library; None where there is none."""
    try:
        return ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
