"""A folder and an S3 prefix keep the same promises."""

import errno
import os
import pickle
import threading
import time
import uuid
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from moto.server import ThreadedMotoServer
from test_results import row

from orchestrator.errors import ConfigError, DataError, StorageError
from orchestrator.events import EventLog, read_events
from orchestrator.results.store import ResultsStore
from orchestrator.storage import cache_room, s3
from orchestrator.storage.filesystem import open_storage


@pytest.fixture(scope="module")
def s3_endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_storage(s3_endpoint, tmp_path, monkeypatch):
    for name, value in {
        "AWS_ENDPOINT_URL": s3_endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3._new_client.cache_clear()
    monkeypatch.setattr(s3, "_cache_folder", lambda: _made(tmp_path / "cache"))
    bucket = f"bucket-{uuid.uuid4().hex}"
    s3._client().create_bucket(Bucket=bucket)
    yield open_storage(f"s3://{bucket}/runs/first")
    s3._new_client.cache_clear()


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_storage")
    return open_storage(str(tmp_path / "run"))


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def test_what_is_written_is_read_and_listed(storage):
    storage.write_bytes("a/two.txt", b"2")
    storage.write_bytes("a/one.txt", b"1")
    storage.write_bytes("b.txt", b"3")
    assert storage.read_bytes("a/one.txt") == b"1"
    assert storage.list_keys() == ["a/one.txt", "a/two.txt", "b.txt"]
    assert storage.list_keys("a") == ["a/one.txt", "a/two.txt"]
    assert storage.exists("b.txt")
    assert not storage.exists("a")


def test_a_second_write_replaces_the_first(storage):
    storage.write_bytes("x", b"old")
    storage.write_bytes("x", b"new")
    assert storage.read_bytes("x") == b"new"
    assert storage.fetch("x").read_bytes() == b"new"


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


def test_a_fetched_file_follows_its_key(storage):
    storage.write_bytes("x.txt", b"one")
    first = storage.fetch("x.txt").read_bytes()
    storage.write_bytes("x.txt", b"two")
    assert (first, storage.fetch("x.txt").read_bytes()) == (b"one", b"two")
    assert storage.fetch("x.txt").name == "x.txt"


@pytest.mark.parametrize(
    "key",
    ["", ".", "..", "../x", "a/../../x", "a/..", "/etc/x", "a//x", "a/", "./x", "a\\..\\x", "a\0x", "a\nx", "a\x9bx"],
)
@pytest.mark.parametrize("operation", ["exists", "read_bytes", "fetch", "delete", "write", "create", "writing"])
def test_a_key_that_is_no_plain_relative_path_is_refused_by_every_operation(storage, key, operation, tmp_path):
    operations = {
        "write": lambda: storage.write_bytes(key, b"1"),
        "create": lambda: storage.create_exclusive(key, b"1"),
        "writing": lambda: storage.writing(key).__enter__(),
    }
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as caught:
        operations.get(operation, lambda: getattr(storage, operation)(key))()
    assert repr(key) in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("key", ["..a/x..", "a b/ü.txt", "a:b", "~/x", "-x", "a/.b"])
def test_an_odd_but_plain_key_is_written_and_found(storage, key):
    storage.write_bytes(key, b"1")
    assert storage.list_keys() == [key]
    assert storage.fetch(key).read_bytes() == b"1"


@pytest.mark.parametrize("key", ["cases/../../../x", "cases//x", "/x", "cases/a\\b"])
def test_a_bucket_with_a_key_that_leads_elsewhere_is_refused_by_its_name(s3_storage, key):
    s3._client().put_object(Bucket=s3_storage._bucket, Key=f"{s3_storage._prefix}{key}", Body=b"1")
    with pytest.raises(DataError, match="plain relative path") as caught:
        s3_storage.list_keys("cases" if key.startswith("cases") else "")
    assert repr(key) in str(caught.value)


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


def test_one_of_eight_racers_creates_a_file(storage):
    wins = []

    def race(number: int) -> None:
        if storage.create_exclusive("result", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert storage.read_bytes("result") == str(wins[0]).encode()
    assert storage.list_keys() == ["result"]


def test_what_is_deleted_is_gone(storage):
    storage.write_bytes("x", b"1")
    storage.delete("x")
    storage.delete("x")
    assert not storage.exists("x")


@pytest.mark.parametrize("action", ["read_bytes", "fetch"])
def test_a_missing_file_is_named(storage, action):
    with pytest.raises(StorageError, match=r"first/no/such\.file|run/no/such\.file"):
        getattr(storage, action)("no/such.file")


def test_a_storage_can_be_sent_to_another_process(storage):
    storage.write_bytes("x", b"1")
    assert pickle.loads(pickle.dumps(storage)).read_bytes("x") == b"1"


def test_unfinished_writes_are_not_listed(tmp_path):
    storage = open_storage(str(tmp_path))
    storage.write_bytes("x", b"1")
    (tmp_path / ".tmp-abc-y").write_bytes(b"half")
    assert storage.list_keys() == ["x"]


@pytest.mark.usefixtures("s3_storage")
def test_a_bucket_that_does_not_exist_is_named():
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/runs/x: cannot write it: .*NoSuchBucket"):
        open_storage("s3://no-such-bucket/runs").write_bytes("x", b"1")


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


def test_a_full_disk_is_said_and_leaves_nothing(storage, request):
    # What is uploaded lies in the temporary folder first.
    is_remote = request.node.callspec.params["storage"] == "s3"
    advice = r"in /.*, or set TMPDIR to another" if is_remote else "or choose another --output"

    def fill() -> None:
        with storage.writing("big/x.bin"):
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=rf"x\.bin: no space left to write it\. Free space {advice}"):
        fill()
    assert storage.list_keys() == []


def test_an_error_of_the_writer_itself_is_not_taken_for_one_of_the_storage(storage, tmp_path):
    with pytest.raises(FileNotFoundError, match="other"), storage.writing("x"):
        (tmp_path / "other").read_bytes()


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


def test_a_put_whose_answer_was_lost_is_recognised_as_ours(s3_storage, monkeypatch):
    put = s3.S3Storage._put_if_absent

    def twice(self, *args, **kwargs):
        put(self, *args, **kwargs)
        return put(self, *args, **kwargs)

    monkeypatch.setattr(s3.S3Storage, "_put_if_absent", twice)
    assert s3_storage.create_exclusive("x", b"1")
    monkeypatch.undo()
    assert not s3_storage.create_exclusive("x", b"1")


def test_a_put_that_collides_is_repeated(s3_storage, monkeypatch):
    put, answers = s3.S3Storage._put_if_absent, [409, 409]
    monkeypatch.setattr(
        s3.S3Storage,
        "_put_if_absent",
        lambda self, *args, **kwargs: answers.pop() if answers else put(self, *args, **kwargs),
    )
    assert s3_storage.create_exclusive("x", b"1")
    answers += [409] * s3.NUM_CONFLICTS
    with pytest.raises(StorageError, match="/y: cannot create it: 5 conflicts with other writers"):
        s3_storage.create_exclusive("y", b"1")


def test_keys_outside_the_prefix_are_not_listed(s3_storage):
    s3_storage.write_bytes("x", b"1")
    open_storage(s3_storage.location + "-second").write_bytes("y", b"2")
    assert s3_storage.list_keys() == ["x"]


def test_an_object_that_only_stands_for_a_folder_is_not_listed(s3_storage):
    """S3's console makes such objects."""
    for key in ("data/", "data/x"):
        s3._client().put_object(Bucket=s3_storage._bucket, Key=f"{s3_storage._prefix}{key}", Body=b"")
    assert s3_storage.list_keys() == s3_storage.list_keys("data") == ["data/x"]


def test_a_cached_copy_that_has_changed_is_fetched_again(s3_storage):
    s3_storage.write_bytes("x", b"right")
    copy = s3_storage.fetch("x")
    copy.write_bytes(b"wrong")
    assert s3_storage.fetch("x").read_bytes() == b"right"


def test_the_cache_leaves_space_on_a_small_disk(s3_storage, monkeypatch):
    def used():
        return sum(path.stat().st_size for path in s3._cache_folder().rglob("*") if path.is_file())

    # A copy takes 100 bytes, and 64 for its digest.
    disk = used() + cache_room.LEFT_BYTES + 400
    monkeypatch.setattr(cache_room.shutil, "disk_usage", lambda _: SimpleNamespace(free=disk - used()))
    for number, name in enumerate("abc"):
        s3_storage.write_bytes(name, b"." * 100)
        os.utime(s3_storage.fetch(name), (number + 1, number + 1))
    kept = [path.name for path in s3._cache_folder().rglob("?") if path.is_file()]
    assert sorted(kept) == ["b", "c"]


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(s3_storage, monkeypatch):
    monkeypatch.setattr(s3, "CACHE_LIMIT_BYTES", 400)  # 164 bytes each, with the digest
    for name in "abc":
        s3_storage.write_bytes(name, b"." * 100)
    a, b = s3_storage.fetch("a"), s3_storage.fetch("b")
    os.utime(a, (1000, 1000))
    os.utime(b, (2000, 2000))
    assert s3_storage.fetch("a") == a  # used again: b is the oldest now
    c = s3_storage.fetch("c")
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert s3_storage.fetch("b").read_bytes() == b"." * 100


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [("AccessDenied", 403, "not allowed"), ("InvalidAccessKeyId", 403, "unknown access key"), ("Odd", 418, "Odd")],
)
def test_a_refusal_of_s3_is_said_in_one_line(s3_storage, monkeypatch, code, status, reason):
    def refuse(**_):
        raise ClientError(
            {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject"
        )

    monkeypatch.setattr(s3._client(), "put_object", refuse)
    with pytest.raises(StorageError, match=rf"^{s3_storage.location}/x: cannot write it: .*{reason}") as caught:
        s3_storage.write_bytes("x", b"1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("location", ["gs://bucket/prefix", "s3://", "http://host/path"])
def test_other_locations_are_refused(location):
    with pytest.raises(ConfigError, match="expected a folder or s3://bucket/prefix"):
        open_storage(location)
