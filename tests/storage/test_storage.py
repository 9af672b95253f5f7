"""A folder and the prefixes of all kinds of buckets keep the same promises."""

import errno
import os
import pickle
import subprocess
import sys
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from fault_server import BUCKETS
from test_results import row

from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.local import LocalStorage
from orchestrator.storage.memory import MemoryStorage

pytest_plugins = ["bucket_fixtures"]
MIB = 1024**2


@pytest.fixture(params=["local", *BUCKETS])
def storage(request, tmp_path, open_bucket):
    """Give a storage whose files have paths."""
    return open_storage(tmp_path / "run") if request.param == "local" else open_bucket(request.param)


@pytest.fixture(params=["memory", "local", *BUCKETS])
def any_storage(request, tmp_path, open_bucket):
    if request.param == "memory":
        return MemoryStorage("memory/first")
    return open_storage(tmp_path / "run") if request.param == "local" else open_bucket(request.param)


def python(script, *arguments):
    """Start a process of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_folders_that_this_user_cannot_write_to_are_known(any_storage, monkeypatch):
    """Whether a user can is played: root always can."""
    for key in ("a/b/c/d/e.txt", "open/f.txt", "others/closed/g.txt", "closed/h.txt"):
        any_storage.write_bytes(key, b"")
    names = ("a", "open", "closed", "nowhere")
    assert any_storage.unwritable_folders(among=names) == []
    monkeypatch.setattr(os, "access", lambda path, _: path.name not in {"closed", "c", "d"})
    expected = [f"{any_storage.location}/{name}" for name in ("a/b/c", "closed")]
    found = sorted(any_storage.unwritable_folders(among=names))
    assert found == (expected if isinstance(any_storage, LocalStorage) else [])


def test_what_is_written_is_read_and_listed(any_storage):
    any_storage.write_bytes("a/two.txt", b"2")
    any_storage.write_bytes("a/one.txt", b"1")
    any_storage.write_bytes("a-b/none.txt", b"")
    any_storage.write_bytes("b.txt", b"three")
    assert any_storage.read_bytes("a/one.txt") == b"1"
    assert any_storage.read_bytes("a-b/none.txt") == b""
    assert any_storage.list_keys() == ["a-b/none.txt", "a/one.txt", "a/two.txt", "b.txt"]
    assert any_storage.list_keys("a") == any_storage.list_keys("a/") == ["a/one.txt", "a/two.txt"]
    assert any_storage.list_keys("b.txt") == any_storage.list_keys("c") == []
    assert {key: size for key, (size, _) in any_storage.sizes_and_times("").items()} == {
        "a-b/none.txt": 0,
        "a/one.txt": 1,
        "a/two.txt": 1,
        "b.txt": 5,
    }
    assert any_storage.exists("b.txt")
    assert not any_storage.exists("a")


def test_the_time_of_a_file_is_that_of_its_writing(storage):
    storage.write_bytes("x", b"1")
    [(_, time_ns)] = storage.sizes_and_times("").values()
    assert abs(time.time() - time_ns / 10**9) < 10


def test_a_second_write_replaces_the_first(storage):
    storage.write_bytes("x", b"old")
    storage.write_bytes("x", b"new")
    assert storage.read_bytes("x") == b"new"
    assert storage.fetch("x").read_bytes() == b"new"


def test_a_large_file_goes_there_and_back(storage):
    content = bytes(range(256)) * 4096 * 12
    with storage.writing("large") as path:
        path.write_bytes(content)
    storage.write_bytes("too", content)
    assert storage.fetch("large").read_bytes() == storage.read_bytes("too") == content


def test_a_failed_write_leaves_nothing(storage):
    def torn() -> None:
        with storage.writing("x.nii.gz") as path:
            assert path.name.endswith("x.nii.gz")
            path.write_bytes(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        torn()
    assert storage.list_keys() == []


def test_a_failed_write_keeps_what_was_there(storage):
    storage.write_bytes("x", b"old")
    with suppress(ZeroDivisionError), storage.writing("x") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert storage.read_bytes("x") == b"old"


def test_a_killed_writer_leaves_nothing_that_is_listed(storage):
    script = """
import sys, time
from orchestrator.storage.filesystem import open_storage
with open_storage(sys.argv[1]).writing("x") as path:
    path.write_bytes(b"half")
    print("begun", flush=True)
    time.sleep(600)
"""
    process = python(script, storage.location)
    assert process.stdout.readline() == "begun\n"
    process.kill()
    process.communicate()
    assert storage.list_keys() == []
    assert not storage.exists("x")


def test_a_large_upload_that_breaks_off_leaves_nothing(remote, server):
    server.door.fail("InternalError", times=10**6, words=("partNumber=2", "comp=blocklist"))
    with pytest.raises(StorageError, match="/large: cannot write it"), remote.writing("large") as path:
        path.write_bytes(bytes(12 * MIB))
    server.door.fail("InternalError", times=0)
    assert remote.list_keys() == []


def test_a_fetched_file_follows_its_key(storage):
    storage.write_bytes("x.txt", b"one")
    first = storage.fetch("x.txt").read_bytes()
    storage.write_bytes("x.txt", b"two")
    assert (first, storage.fetch("x.txt").read_bytes()) == (b"one", b"two")
    assert storage.fetch("x.txt").name == "x.txt"
    storage.write_bytes("x.txt", b"")
    assert storage.fetch("x.txt").read_bytes() == b""


@pytest.mark.parametrize(
    "key",
    [
        *("", ".", "..", "../x", "a/../../x", "a/..", "/etc/x", "a//x", "a/", "./x"),
        *("a\\..\\x", "a\0x", "a\nx", "a\x9bx", "a\ud800x"),
    ],
)
def test_a_key_that_is_no_plain_relative_path_is_refused_by_every_operation(storage, key, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    for operation in (
        storage.exists,
        storage.read_bytes,
        storage.fetch,
        storage.delete,
        lambda key: storage.write_bytes(key, b"1"),
        lambda key: storage.create_exclusive(key, b"1"),
        lambda key: storage.writing(key).__enter__(),
    ):
        with pytest.raises(DataError) as caught:
            operation(key)
        assert repr(key) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["a/" + "x" * 256, "é" * 128, "/".join(["a" * 200] * 6)])
def test_a_key_that_is_longer_than_names_can_be_everywhere_is_refused_by_every_operation(storage, key):
    for operation in (storage.exists, storage.read_bytes, storage.fetch, lambda key: storage.write_bytes(key, b"1")):
        with pytest.raises(DataError, match="too long for the name of a file; expected at most 255 bytes"):
            operation(key)


def test_files_of_a_folder_whose_names_no_key_can_be_are_not_listed(tmp_path):
    for name in (b"a\xff.csv", b"a\nb.csv", b"a\\b.csv", b"ok.csv"):
        (tmp_path / os.fsdecode(name)).touch()
    listed = open_storage(tmp_path).list_keys()
    assert sorted(open_storage(tmp_path).sizes_and_times("")) == listed == ["a\udcff.csv", "ok.csv"]


def test_a_bucket_has_no_name_that_is_no_text(storage):
    if storage.is_remote:
        with pytest.raises(DataError, match="not the name of a file"):
            storage.write_bytes("a\udcff.csv", b"1")


@pytest.mark.parametrize(
    "key",
    [
        "..a/x..",
        "a b/ü.txt",
        "a:b",
        "~/x",
        "-x",
        "a/.b",
        "a%2Fb",
        "a+b",
        "x#1",
        "q?v=1&w",
        "[1]*{2}",
        "数据/ζ/🫁",
        "e\u0301",
    ],
)
def test_an_odd_but_plain_key_is_written_and_found(any_storage, key):
    assert any_storage.create_exclusive(key, b"0")
    assert not any_storage.create_exclusive(key, b"1")
    any_storage.write_bytes(key, b"2")
    assert any_storage.list_keys() == [key]
    assert any_storage.read_bytes(key) == b"2"
    any_storage.delete(key)
    assert any_storage.list_keys() == []


def test_one_of_eight_racers_creates_a_file(any_storage):
    wins = []

    def race(number: int) -> None:
        if any_storage.create_exclusive("result", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert any_storage.read_bytes("result") == str(wins[0]).encode()
    assert any_storage.list_keys() == ["result"]


def test_one_of_several_processes_creates_each_file(storage, tmp_path):
    script = """
import sys, time
from pathlib import Path
from orchestrator.storage.filesystem import open_storage
storage, name, start = open_storage(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
storage.exists("x")
print("ready", flush=True)
while not start.exists():
    time.sleep(0.001)
print(*(number for number in range(20) if storage.create_exclusive(f"race/{number}", name.encode())))
"""
    racers = [python(script, storage.location, name, tmp_path / "start") for name in "abc"]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    (tmp_path / "start").touch()
    won = {name: racer.communicate()[0].split() for name, racer in zip("abc", racers, strict=True)}
    assert sorted(number for numbers in won.values() for number in numbers) == sorted(map(str, range(20)))
    for name, numbers in won.items():
        assert {storage.read_bytes(f"race/{number}") for number in numbers} <= {name.encode()}


def test_what_is_deleted_is_gone(any_storage):
    any_storage.write_bytes("x", b"1")
    any_storage.delete("x")
    any_storage.delete("x")
    assert not any_storage.exists("x")


@pytest.mark.parametrize("action", ["read_bytes", "fetch"])
def test_a_missing_file_is_named(any_storage, action):
    with pytest.raises(StorageError, match=r"(first|run)/no/such\.file") as caught:
        getattr(any_storage, action)("no/such.file")
    assert "\n" not in str(caught.value)


def test_a_storage_can_be_sent_to_another_process(storage):
    storage.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("x") == b"1"


def test_a_full_disk_is_said_and_leaves_nothing(storage):
    # What is uploaded lies in the temporary folder first.
    advice = r"in /.*, or set TMPDIR to another" if storage.is_remote else "or choose another --output"

    def fill() -> None:
        with storage.writing("big/x.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=rf"x\.bin: no space left to write it\. Free space {advice}"):
        fill()
    assert storage.list_keys() == []


def test_an_error_of_the_writer_itself_is_not_taken_for_one_of_the_storage(storage, tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), storage.writing("x"):
        (tmp_path / "other").read_bytes()


def test_results_and_events_can_be_kept_there(storage):
    results = ResultsStore(storage)
    assert results.commit("T1-lung-fold0", [row(0.25, 0.5), row(0.75, 0.5)])
    assert not results.commit("T1-lung-fold0", [row(0.0, 0.0)])
    assert results.finished() == {"T1-lung-fold0"}
    assert results.query("SELECT avg(dsc) AS dsc FROM scores").to_pylist() == [{"dsc": 0.5}]
    events = EventLog(storage, run_started=datetime(2020, 4, 20, tzinfo=UTC), clock=lambda: datetime.now(UTC))
    for epoch in range(3):
        events.append("training_epoch", epoch=epoch)
    events.flush()
    assert [event["epoch"] for event in read_events(storage)] == [0, 1, 2]


@pytest.mark.parametrize(
    "location", ["gcs://bucket/prefix", "abfss://c@a.dfs.core.windows.net/x", "http://host/path", "s3://", "gs:///x"]
)
def test_other_locations_are_refused(location):
    with pytest.raises(ConfigError, match=f"^{location}: .*expected a folder, or s3://, gs:// or az://") as caught:
        open_storage(location)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "location",
    ["s3://KEY:geheim@bucket/x", "az://cont/x?sv=2020&sig=geheim", "https://me:geheim@host/x", "gs://b/x?k=geheim"],
)
def test_keys_and_signatures_in_a_location_are_refused_and_not_shown(location):
    with pytest.raises(ConfigError, match=r"://\.\.\.: holds @ or \?.*expected bucket/prefix alone") as caught:
        open_storage(location)
    assert "geheim" not in str(caught.value)


def test_a_bucket_that_takes_a_package_which_is_missing_is_refused(monkeypatch):
    monkeypatch.setattr("orchestrator.storage.filesystem.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"gs://bucket/x: takes the package obstore.*nnunet-orchestrator\[buckets\]"):
        open_storage("gs://bucket/x")
