"""A folder of a disk: modes, links, unfinished writes and file systems that lack something."""

import errno
import os
import time
from pathlib import Path
from unittest import mock

import pytest

from orchestrator.configuration import absolute
from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_mode_of_a_file_follows_the_umask(tmp_path, umask, mode):
    folder = open_storage(tmp_path / "run")
    before = os.umask(umask)
    try:
        folder.write_bytes("a/written", b"1")
        folder.create_exclusive("a/created", b"1")
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in sorted((tmp_path / "run" / "a").iterdir())] == [mode, mode]
    assert (tmp_path / "run" / "a").stat().st_mode & 0o777 == 0o777 & ~umask


def test_unfinished_writes_are_not_listed(tmp_path):
    storage = open_storage(str(tmp_path))
    storage.write_bytes("x", b"1")
    (tmp_path / ".tmp-abc-y").write_bytes(b"half")
    assert storage.list_keys() == ["x"]


def test_an_unfinished_write_is_swept_after_a_day(tmp_path):
    storage = open_storage(tmp_path)
    for name, age_s in {".tmp-fresh": 80_000, ".tmp-stale": 90_000}.items():
        (tmp_path / name).write_bytes(b"half")
        os.utime(tmp_path / name, (time.time() - age_s,) * 2)
    assert storage.list_keys() == []
    assert len(list(tmp_path.iterdir())) == 2
    storage.sweep()
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-fresh"]


def test_folders_that_are_linked_to_are_listed_and_links_that_lead_back_are_not_followed(tmp_path):
    storage = open_storage(tmp_path / "run")
    for key in ("a/x", "b/y"):
        storage.write_bytes(key, b"1")
    (tmp_path / "scratch").mkdir()
    (tmp_path / "scratch" / "z").touch()
    for link, target in {"c": "scratch", "a/up": "run", "a/other": "run/b", "b/other": "run/a", "top": "."}.items():
        (tmp_path / "run" / link).symlink_to(tmp_path / target)
    assert storage.list_keys() == ["a/other/y", "a/x", "b/other/x", "b/y", "c/z"]


def test_links_that_lead_nowhere_have_no_size_and_a_file_that_is_not_given_out_is_an_error(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    storage.write_bytes("x", b"1")
    (tmp_path / ".#x").symlink_to("me@host.1:2")
    (tmp_path / "y").symlink_to("y")
    assert list(storage.sizes_and_times("")) == ["x"]

    def refused(self, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.stat", refused)
    with pytest.raises(StorageError, match=r"#x: cannot look at it: Permission denied"):
        storage.sizes_and_times("")


@pytest.mark.parametrize("letter", ["a", "\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{GRINNING FACE}"])
def test_a_name_may_be_as_long_as_file_systems_let_it_be(tmp_path, letter):
    storage = open_storage(tmp_path)
    longest = letter * (255 // len(letter.encode()))
    storage.write_bytes(f"written/{longest}", b"1")
    assert storage.create_exclusive(f"created/{longest}", b"1")
    assert storage.list_keys() == [f"created/{longest}", f"written/{longest}"]


def test_stages_of_trainings_and_cases_with_long_names_leave_what_they_failed_by(tmp_path):
    storage = open_storage(tmp_path)
    for case in ("c" * 199 + "1", "c" * 199 + "2"):
        storage.write_bytes(run_paths.stage_failure(f"preprocess {'t' * 240} lungs/{case}"), b"1")
    assert len(storage.list_keys()) == 2
    assert run_paths.stage_failure("preprocess t lungs/c") == "logs/failed/preprocess--t--lungs--c.txt"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    storage = open_storage(tmp_path / "run")
    with pytest.raises(StorageError, match="run/x: cannot write it"):
        storage.create_exclusive("x", b"1")
    with pytest.raises(StorageError, match="run/x: cannot write it"):
        storage.write_bytes("x", b"1")


def test_a_folder_is_asked_for_its_free_space_before_it_is_made(tmp_path):
    assert open_storage(tmp_path / "not" / "yet").free_bytes() > 0


def test_a_folder_that_cannot_be_listed_is_not_taken_for_empty(tmp_path, monkeypatch):
    storage = open_storage(tmp_path)
    storage.write_bytes("results/x", b"1")

    def refuse(path):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StorageError, match=r"results: cannot list it: Permission denied"):
        storage.list_keys("results")


def test_a_link_whose_answer_was_lost_is_recognised_as_ours(tmp_path, monkeypatch):
    link = os.link

    def link_twice(source, target):
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", link_twice)
    assert open_storage(tmp_path).create_exclusive("x", b"1")
    assert not open_storage(tmp_path).create_exclusive("x", b"2")


def test_a_file_system_without_hard_links_is_said(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StorageError, match=r"/x: cannot create it: this file system has no hard links"):
        open_storage(tmp_path).create_exclusive("x", b"1")


def test_a_tilde_that_the_shell_has_left_is_the_home_of_this_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert open_storage("~/run").location == str(tmp_path / "home" / "run")
    assert str(absolute("~/run", option="--output")) == str(tmp_path / "home" / "run")
    # A folder may well have a name that only begins so.
    assert open_storage("~run").location == "~run"
    monkeypatch.setattr(Path, "expanduser", mock.Mock(side_effect=RuntimeError("no home")))
    with pytest.raises(ConfigError, match="~/run: this user has no home folder; expected a path without ~"):
        open_storage("~/run")


def test_nothing_is_to_be_removed_where_a_file_never_was_though_the_file_system_is_only_read(tmp_path, monkeypatch):
    (tmp_path / "there").touch()
    refusal = OSError(errno.EROFS, os.strerror(errno.EROFS))
    monkeypatch.setattr(Path, "unlink", mock.Mock(side_effect=refusal))
    storage = open_storage(tmp_path)
    storage.delete("nowhere/x")
    with pytest.raises(StorageError, match=r"/there: cannot delete it: Read-only file system"):
        storage.delete("there")
