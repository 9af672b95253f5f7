"""Claims about the folders that other users of a machine can neither enter nor exchange."""

import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.errors import StorageError
from orchestrator.storage import private_folder
from orchestrator.storage.private_folder import cache_folder, if_free, locked, own_folder, run_folder

RAY_BYTES = 66
STRANGER = 12345
NEEDS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "t"
    folder.mkdir()
    monkeypatch.setattr(private_folder.tempfile, "tempdir", str(folder))
    monkeypatch.delenv(private_folder.CACHES, raising=False)
    # Paths below pytest's own folder are too long for sockets.
    monkeypatch.setattr(private_folder, "MAX_SOCKET_BYTES", len(os.fsencode(folder)) + 32 + RAY_BYTES)
    return folder


@pytest.fixture
def common(tmp_path, monkeypatch):
    folder = tmp_path / "c"
    folder.mkdir()
    monkeypatch.setattr(private_folder, "_COMMON", (str(folder),))
    return folder


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def usual(base: Path) -> Path:
    return base / f"orch-{os.geteuid()}"


def test_a_cache_is_a_folder_of_this_user_alone_and_the_same_for_all_processes(temporary):
    folder = cache_folder("patches")
    assert (folder, folder.parent) == (cache_folder("patches"), usual(temporary))
    assert (mode(folder), mode(folder.parent)) == (0o700, 0o700)


def test_a_folder_that_others_can_read_is_closed(temporary):
    usual(temporary).mkdir(mode=0o755)
    assert own_folder(temporary) == usual(temporary)
    assert mode(usual(temporary)) == 0o700


def a_link(path):
    (path.parent / "elsewhere").mkdir(mode=0o700)
    path.symlink_to(path.parent / "elsewhere")


def a_file(path):
    path.write_text("content")


def a_folder_that_others_write_to(path):
    path.mkdir()
    path.chmod(0o770)


def a_folder_of_a_stranger(path):
    path.mkdir(mode=0o777)
    os.chown(path, STRANGER, STRANGER)


@pytest.mark.parametrize(
    "prepare",
    [a_link, a_file, a_folder_that_others_write_to, pytest.param(a_folder_of_a_stranger, marks=NEEDS_ROOT)],
)
def test_what_lies_there_already_is_left_alone_and_another_folder_used_with_a_line(temporary, caplog, prepare):
    prepare(usual(temporary))
    folder = cache_folder("patches")
    assert folder.parent.parent == temporary
    assert folder.parent != usual(temporary)
    assert mode(folder.parent) == 0o700
    assert cache_folder("patches") == folder, "the next process uses the same"
    (record,) = caplog.records
    assert f"{usual(temporary)}: " in record.getMessage()
    assert f"{folder.parent} is used instead" in record.getMessage()
    if prepare is a_file:
        assert usual(temporary).read_text() == "content"
    assert not list((temporary / "elsewhere").glob("*"))


def test_a_folder_that_is_a_link_is_not_locked(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for lock in (locked, if_free):
        with pytest.raises(OSError, match="link"), lock(tmp_path / "link"):
            pass


def test_a_temporary_folder_in_which_others_may_rename_is_not_used(temporary, common, caplog):
    temporary.chmod(0o777)
    assert cache_folder("s3").parent == usual(common)
    assert "sticky" in caplog.text
    temporary.chmod(0o1777)
    assert cache_folder("s3").parent == usual(temporary)


def test_a_run_leaves_nothing(temporary):
    with run_folder(num_below_bytes=RAY_BYTES) as folder:
        assert (mode(folder.path), folder.path.parent, folder.caches) == (0o700, usual(temporary), temporary)
        (folder.temporary / "pymp-1").mkdir()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("name", ["l" * 100, "kürzer"])
def test_a_temporary_folder_with_a_long_path_keeps_its_space_behind_a_short_one(temporary, common, monkeypatch, name):
    long = temporary / name
    long.mkdir()
    monkeypatch.setattr(private_folder.tempfile, "tempdir", str(long))
    with run_folder(num_below_bytes=RAY_BYTES) as folder:
        assert folder.path.parent == usual(common)
        (folder.temporary / "large").write_bytes(b"1")
        assert folder.temporary.resolve().is_relative_to(long)
        assert (mode(folder.temporary.resolve()), folder.caches) == (0o700, long)
    assert list(long.iterdir()) == list(common.iterdir()) == []


@pytest.mark.parametrize("name", ["short", "l" * 100, "kürzer"])
def test_a_preferred_folder_is_used_if_its_path_is_short(temporary, common, name):
    (temporary.parent / name).mkdir()
    with run_folder(num_below_bytes=RAY_BYTES, prefer=str(temporary.parent / name)) as folder:
        assert (folder.path.parent == usual(temporary.parent / name)) == (name == "short")


def test_without_any_folder_one_line_says_so(temporary, monkeypatch):
    monkeypatch.setattr(private_folder, "_COMMON", ())
    monkeypatch.setattr(private_folder, "MAX_SOCKET_BYTES", 10)
    with (
        pytest.raises(StorageError, match=r"t: its path is too long for sockets\. Set TMPDIR to a folder with"),
        run_folder(num_below_bytes=RAY_BYTES),
    ):
        pass


def test_a_temporary_folder_with_little_space_is_named_and_another_one_used(temporary, common, monkeypatch, caplog):
    free = {temporary: private_folder.LEAST_FREE_BYTES - 1, common: private_folder.LEAST_FREE_BYTES}
    monkeypatch.setattr(private_folder.shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[folder]))
    with run_folder(num_below_bytes=RAY_BYTES) as folder:
        assert folder.path.parent == usual(common)
        assert folder.temporary.resolve().is_relative_to(common)
    assert f"{temporary}: less than 32 MiB free. Another folder is used" in caplog.text
    assert list(temporary.iterdir()) == list(common.iterdir()) == []


def test_a_full_temporary_folder_is_named_and_another_one_used(temporary, common, monkeypatch, caplog):
    def refuse(path, data):
        if path.is_relative_to(temporary):
            raise OSError(28, "No space left on device")
        return len(data)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    monkeypatch.setattr(Path, "unlink", lambda _: None)
    with run_folder(num_below_bytes=RAY_BYTES) as folder:
        assert folder.path.parent == usual(common)
    assert f"{temporary}: No space left on device. Another folder is used" in caplog.text


DIE = """
import os, sys
from orchestrator.storage import private_folder
private_folder.tempfile.tempdir = sys.argv[1]
private_folder.MAX_SOCKET_BYTES = 1000
with private_folder.run_folder(num_below_bytes=0) as folder:
    (folder.temporary / "pymp-1").mkdir()
    print(folder.path, flush=True)
    if sys.argv[2] == "live":
        sys.stdin.read()
    os._exit(9)
"""


def test_what_a_killed_run_left_is_removed_by_the_next_one_and_what_a_live_one_has_is_not(temporary):
    def start(what):
        command = [sys.executable, "-c", DIE, str(temporary), what]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return process, Path(process.stdout.readline().strip())

    dead, left = start("dead")
    dead.communicate()
    assert left.is_dir()
    live, used = start("live")
    assert not left.exists()
    with run_folder(num_below_bytes=RAY_BYTES) as folder:
        assert used.is_dir()
        assert folder.path != used
    live.communicate()
