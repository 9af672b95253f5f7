"""Claims about the memory that is left: limits of containers, Slurm and systemd count, wherever they are set."""

import pytest

from orchestrator.images import memory
from orchestrator.images.memory import available_bytes
from orchestrator.images.stored_voxels import ReadBuffer
from orchestrator.inference.folder_memory import plan_memory

KIB = 1 << 10


def tell(folder, *, limit, taken, cached=0, version=2):
    """Write what a control group says of itself: half of the cached pages of files are in use."""
    folder.mkdir(parents=True, exist_ok=True)
    of_limit, of_taken, total = {
        1: ("limit_in_bytes", "usage_in_bytes", "total_"),
        2: ("max", "current", ""),
    }[version]
    (folder / f"memory.{of_limit}").write_text(f"{limit}\n")
    (folder / f"memory.{of_taken}").write_text(f"{taken}\n")
    lines = [f"{total}inactive_file {cached // 2}", f"{total}active_file {cached // 2}", f"{total}inactive_anon 7"]
    # Version 1 tells what is of the group alone as well.
    (folder / "memory.stat").write_text("\n".join(["active_file 1", "inactive_file 1"][: version % 2 * 2] + lines))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine with 1 MiB left; returns where its control groups are, and how a process is put in some."""
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemAvailable: 1024 kB\n")
    monkeypatch.setattr(memory, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_OWN_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "_GROUPS", tmp_path / "groups")
    return tmp_path / "groups", lambda *lines: (tmp_path / "cgroup").write_text("\n".join(lines) + "\n")


def test_without_control_groups_the_machine_says_what_is_left(machine):
    groups, put_in = machine
    assert available_bytes() == 1024 * KIB
    put_in("0::/user.slice")
    tell(groups, limit="max", taken=5 * KIB)
    tell(groups / "user.slice", limit="max", taken=5 * KIB)
    assert available_bytes() == 1024 * KIB


@pytest.mark.parametrize(
    ("version", "lines", "top"),
    [
        (1, ("5:cpu,cpuacct:/elsewhere", "4:memory:/slurm/job_7/step_0", "0::/"), "memory"),
        (2, ("0::/slurm/job_7/step_0",), ""),
    ],
)
def test_limit_of_a_group_further_up_counts_less_what_is_taken_but_for_pages_of_files(machine, version, lines, top):
    groups, put_in = machine
    put_in(*lines)
    top = groups / top
    without = "max" if version == 2 else 9223372036854771712
    tell(top / "slurm/job_7/step_0", limit=without, taken=100 * KIB, version=version)
    tell(top / "slurm/job_7", limit=400 * KIB, taken=300 * KIB, cached=50 * KIB, version=version)
    tell(top / "slurm", limit=800 * KIB, taken=300 * KIB, version=version)
    assert available_bytes() == (400 - 300 + 50) * KIB
    with pytest.raises(MemoryError):
        ReadBuffer().take(200 * KIB)
    tell(top / "slurm/job_7", limit=400 * KIB, taken=450 * KIB, version=version)
    assert available_bytes() == 0


def test_container_whose_groups_are_named_as_its_host_sees_them_has_the_limit_of_the_top(machine):
    groups, put_in = machine
    put_in("4:memory:/docker/0123abc")
    tell(groups / "memory", limit=300 * KIB, taken=100 * KIB, version=1)
    assert available_bytes() == 200 * KIB
    put_in("0::/../../outside")
    tell(groups, limit=300 * KIB, taken=200 * KIB)
    assert available_bytes() == 100 * KIB


def test_no_memory_left_is_none_for_cases_to_overlap_in(monkeypatch):
    cases = [None, None]
    for available, overlap in ((0, False), (10**6, True), (None, True)):
        monkeypatch.setattr("orchestrator.inference.folder_memory.available_bytes", lambda left=available: left)
        found = plan_memory(cases, num_left=2, own_bytes=100, most_bytes=10**9, is_alone=False)
        assert found.overlaps == (overlap, overlap)
