"""Claims about the benchmark of epochs on a GPU, as far as they can be tested without one."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

from bench.feed import gpu_utilisation
from bench.feed.gpu import held_to, measure_one
from bench.feed.gpu_utilisation import Utilisation


@pytest.mark.long
def test_the_benchmark_runs_through_its_command_line_with_a_process_for_each_feed():
    options = ["--device", "cpu", "--preset", "smoke", "--size", "64", "--slices", "40", "--cores", "1"]
    ended = subprocess.run(
        [sys.executable, "-m", "bench.feed.gpu", *options, "--iterations", "2"],
        check=False, capture_output=True, text=True, timeout=800,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    rows = [line.strip("| ").split(" | ") for line in ended.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[:2] for row in rows] == [["1", "stock"], ["1", "ours"]]
    assert all(float(row[2]) > 0 for row in rows)
    assert all(row[4] == "unknown" for row in rows)


def test_a_training_that_fails_or_hangs_is_a_row_and_not_the_end_of_the_table(tmp_path):
    options = SimpleNamespace(iterations=1, device="cpu", preset="smoke", limit_s=60.0)
    assert measure_one(tmp_path, options, kind="ours", num_cores=1).startswith("failed with exit code 1 |")
    options.limit_s = 0.01
    assert measure_one(tmp_path, options, kind="ours", num_cores=1).startswith("not ended after 0.01 s |")


def test_without_a_gpu_the_benchmark_says_what_it_expected(monkeypatch):
    ended = subprocess.run(
        [sys.executable, "-m", "bench.feed.gpu"],
        check=False, capture_output=True, text=True, timeout=800, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert ended.returncode == 1
    assert "no GPU is visible; expected one, or --device cpu" in ended.stderr


def test_a_process_is_held_to_its_cores_with_all_of_its_threads_and_this_one_no_longer():
    before = os.sched_getaffinity(0)
    count = "import numpy, os, glob; print({len(os.sched_getaffinity(int(t))) for t in os.listdir('/proc/self/task')})"
    with held_to(1):
        assert subprocess.run([sys.executable, "-c", count], capture_output=True, check=True).stdout == b"{1}\n"
    assert os.sched_getaffinity(0) == before


class Driver:
    """NVML of a machine whose third GPU answers one after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def nvmlInit_v2(self):  # noqa: N802 - NVML's name
        return 0

    def nvmlDeviceGetHandleByUUID(self, name, handle):  # noqa: N802 - NVML's name
        handle._obj.value = 3
        return 0 if name == b"GPU-1234-56" else 6

    def nvmlDeviceGetUtilizationRates(self, handle, rates):  # noqa: N802 - NVML's name
        answer = self.answers.pop(0) if handle.value == 3 and self.answers else None
        rates._obj.gpu = answer or 0
        return 3 if answer is None else 0


@pytest.fixture
def mean_of(monkeypatch):
    """The mean utilisation that a driver leads to."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1234-56"))

    def measure(driver, *, device="cuda"):
        monkeypatch.setattr(gpu_utilisation, "_nvml", lambda: driver)
        utilisation = Utilisation(device, period_s=0.001)
        utilisation.start()
        waited_until = time.monotonic() + 120
        while driver and driver.answers and device == "cuda" and time.monotonic() < waited_until:
            time.sleep(0.01)
        utilisation.stop()
        return utilisation.mean

    return measure


def test_the_gpu_that_torch_uses_is_asked_by_its_name_and_its_answers_are_averaged(mean_of):
    assert mean_of(Driver(80, 91, None, 99)) == 90


def test_a_cpu_a_machine_without_a_driver_and_a_gpu_that_does_not_know_have_no_utilisation(mean_of):
    for driver, device in ((Driver(50), "cpu"), (None, "cuda"), (Driver(None), "cuda")):
        assert str(mean_of(driver, device=device)) == "nan"
