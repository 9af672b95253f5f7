"""Claims about a GPU that does not work, told without one: what torch says of it is played."""

import sysconfig

import pytest
import torch

from orchestrator.errors import GpuError
from orchestrator.pipeline import ray_worker
from orchestrator.training import gpu
from orchestrator.training.gpu import check_gpu, missing_for_compiling, working_gpu


@pytest.fixture
def works(monkeypatch):
    """Answers of a GPU that is asked whether it works, one after the other; the last one stays."""

    def answer(*answers):
        left = list(answers)

        def check():
            if not (left.pop(0) if len(left) > 1 else left[0]):
                raise GpuError("the GPU does not work")

        monkeypatch.setattr(gpu, "check_torch", lambda: None)
        monkeypatch.setattr(gpu, "check_gpu", check)

    return answer


def fail_on_it(error):
    with working_gpu(share=1.0):
        raise error


@pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use the GPU of this machine")
def test_without_a_gpu_that_torch_can_use_it_says_what_it_expected():
    with pytest.raises(GpuError, match=r"finds no GPU that it can use.*expected a build of PyTorch with CUDA"):
        fail_on_it(AssertionError("never reached"))


def test_a_gpu_that_cannot_compute_is_named_with_what_torch_said(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(GpuError, match="the GPU does not work: RuntimeError: CUDA error: uncorrectable ECC"):
        check_gpu()


def test_a_gpu_is_blamed_for_what_broke_it_and_for_nothing_else(works):
    works(False)
    with pytest.raises(GpuError):
        fail_on_it(AssertionError("never reached"))
    works(True, False)
    with pytest.raises(GpuError):
        fail_on_it(RuntimeError("CUDA error: an illegal memory access was encountered"))
    works(True, False)
    with pytest.raises(torch.OutOfMemoryError):
        fail_on_it(torch.OutOfMemoryError("CUDA out of memory"))
    works(True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fail_on_it(RuntimeError("size mismatch"))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has all that compiling takes."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(gpu, "find_spec", lambda _: object())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def test_what_is_missing_for_compiling_is_named(machine, monkeypatch):
    assert missing_for_compiling() == ""
    (machine / "Python.h").unlink()
    assert "Python.h" in missing_for_compiling()
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    assert missing_for_compiling() == "a C compiler"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (6, 1))
    assert "capability 7.0" in missing_for_compiling()
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    assert "triton" in missing_for_compiling()


def test_a_process_that_has_used_a_gpu_is_not_used_again():
    assert ray_worker._carry_out_once._max_calls == 1
    assert ray_worker._carry_out._max_calls == 0
