"""Claims about a GPU that does not work, told without one: what torch says of it is played."""

import sysconfig

import pytest
import torch

from orchestrator.errors import GpuError
from orchestrator.ray_backend import tasks as ray_worker
from orchestrator.training import gpu
from orchestrator.training.gpu import check_gpu, obstacle_to_compiling, working_gpu


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


def test_a_gpu_whose_memory_others_have_taken_is_not_broken(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch, "ones", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
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
    works(True, False)
    with pytest.raises(GpuError):
        fail_on_it(RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"))
    works(True)
    with pytest.raises(RuntimeError, match="size mismatch"):
        fail_on_it(RuntimeError("size mismatch"))


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine that has all that compiling takes, and whose compiler is played by no compiler at all."""
    ones = torch.ones(8)
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(gpu, "find_spec", lambda _: object())
    monkeypatch.setattr(torch, "ones", lambda *_, **__: ones)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(gpu.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    return tmp_path


def test_why_no_network_can_be_compiled_is_said(machine, monkeypatch):
    assert obstacle_to_compiling() == ""

    def fail(function):
        raise AssertionError("libcuda.so cannot found!\nPossible files are located at []")

    monkeypatch.setattr(torch, "compile", fail)
    assert obstacle_to_compiling() == "PyTorch cannot compile (AssertionError: libcuda.so cannot found!)"
    (machine / "Python.h").unlink()
    assert obstacle_to_compiling() == "Python.h is missing (of the package python3-dev)"
    monkeypatch.setattr(gpu.shutil, "which", lambda _: None)
    assert obstacle_to_compiling() == "a C compiler is missing (gcc or clang)"
    monkeypatch.setattr(gpu, "find_spec", lambda _: None)
    assert obstacle_to_compiling() == "the package triton is missing"


def test_a_process_that_has_used_a_gpu_is_not_used_again():
    assert ray_worker._carry_out_once._max_calls == 1
    assert ray_worker._carry_out._max_calls == 0
