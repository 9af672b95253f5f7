"""A folder and an S3 prefix keep the same promises."""

import pickle
import threading
from contextlib import suppress

import boto3
import pytest
from moto.server import ThreadedMotoServer

from orchestrator.errors import ConfigError, StorageError
from orchestrator.storage import s3
from orchestrator.storage.filesystem import open_storage


@pytest.fixture(scope="module")
def s3_endpoint():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "s3"])
def storage(request, tmp_path, monkeypatch):
    if request.param == "local":
        return open_storage(str(tmp_path / "run"))
    for name, value in {
        "AWS_ENDPOINT_URL": request.getfixturevalue("s3_endpoint"),
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3._client.cache_clear()
    monkeypatch.setattr(s3, "_cache_folder", lambda: _made(tmp_path / "cache"))
    boto3.client("s3").create_bucket(Bucket=tmp_path.name.replace("_", "-"))
    return open_storage(f"s3://{tmp_path.name.replace('_', '-')}/runs/first")


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


def test_a_bucket_that_does_not_exist_is_named(storage):
    if not storage.location.startswith("s3://"):
        pytest.skip("a folder is made when it is first written to")
    with pytest.raises(StorageError, match=r"s3://no-such-bucket/runs/x: cannot write it: .*NoSuchBucket"):
        open_storage("s3://no-such-bucket/runs").write_bytes("x", b"1")


@pytest.mark.parametrize("location", ["gs://bucket/prefix", "s3://", "http://host/path"])
def test_other_locations_are_refused(location):
    with pytest.raises(ConfigError, match="expected a folder or s3://bucket/prefix"):
        open_storage(location)
