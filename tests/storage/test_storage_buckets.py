"""Buckets that fail, refuse or hold what others have put there; and the copies of their objects."""

import multiprocessing
import os
import pickle
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from botocore.exceptions import ClientError
from fault_server import forget_clients

from orchestrator.errors import DataError, StorageError
from orchestrator.storage import copies, s3
from orchestrator.storage.bucket import NUM_CONFLICTS
from orchestrator.storage.copies import keeping_copies
from orchestrator.storage.filesystem import open_storage

pytest_plugins = ["bucket_fixtures"]


def put(server, storage, key, data):
    server.put(storage._bucket, storage._prefix + key, data)


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_a_bucket_that_fails_three_times_at_every_request_is_survived(remote, server, code):
    server.door.fail(code, times=3)
    remote.write_bytes("a", b"1")
    assert remote.read_bytes("a") == b"1"
    assert remote.exists("a")
    assert remote.create_exclusive("b", b"2")
    assert remote.fetch("b").read_bytes() == b"2"
    with remote.writing("c") as path:
        path.write_bytes(b"3" * 9_000_000)
    assert remote.list_keys() == ["a", "b", "c"]
    assert len(remote.read_bytes("c")) == 9_000_000
    remote.delete("a")
    assert not remote.exists("a")


@pytest.mark.parametrize("cut", [False, True])
def test_a_creation_whose_answer_is_lost_is_known_to_be_ours_and_done_once(remote, server, cut):
    server.door.fail("InternalError", times=1, answer_lost=True, cut=cut)
    assert remote.create_exclusive("results", b"ours")
    server.door.fail("InternalError", times=0)
    assert not remote.create_exclusive("results", b"theirs")
    assert remote.read_bytes("results") == b"ours"


@pytest.mark.parametrize("code", ["InternalError", "SlowDown"])
def test_a_bucket_that_fails_for_good_is_one_line_that_may_be_tried_again(remote, server, code):
    server.door.fail(code, times=10**6)
    for act in (lambda: remote.write_bytes("a", b"1"), lambda: remote.create_exclusive("a", b"1")):
        with pytest.raises(StorageError, match=f"/first/a: cannot (write|create) it: .*{code}") as caught:
            act()
        assert "\n" not in str(caught.value)
        assert caught.value.can_retry
    server.door.fail(code, times=0)
    assert remote.list_keys() == []


def test_what_a_bucket_refuses_is_one_line(remote, server):
    server.door.fail("AccessDenied", times=10**6)
    for act in (
        lambda: remote.read_bytes("a"),
        lambda: remote.write_bytes("a", b"1"),
        lambda: remote.create_exclusive("a", b"1"),
        remote.list_keys,
        lambda: remote.delete("a"),
    ):
        with pytest.raises(StorageError, match=r"cannot \w+ it: these credentials are not allowed to") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_a_bucket_that_does_not_exist_is_named(remote):
    scheme = remote.location.partition("://")[0]
    lost = open_storage(f"{scheme}://no-such-bucket/runs")
    for act in (
        lambda: lost.write_bytes("x", b"1"),
        lambda: lost.create_exclusive("x", b"1"),
        lambda: lost.read_bytes("x"),
        lost.list_keys,
    ):
        with pytest.raises(StorageError, match=r"^\w+://no-such-bucket/runs/x?: cannot \w+ it: .*does not exist"):
            act()


@pytest.fixture
def nowhere():
    """Give an address at which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{closed.getsockname()[1]}"


def test_missing_credentials_are_said(remote, server, nowhere, tmp_path, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_BEARER_TOKEN", "AZURE_STORAGE_ACCOUNT_KEY"):
        monkeypatch.delenv(name, raising=False)
    # Where obstore and boto3 look next.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("GCE_METADATA_HOST", "GCE_METADATA_IP"):
        monkeypatch.setenv(name, nowhere)
    monkeypatch.setenv("AZURE_MSI_ENDPOINT", f"http://{nowhere}/")
    forget_clients()
    with pytest.raises(StorageError, match=r"/first/a: cannot read it: .*(credentials were found|locate credentials)"):
        remote.read_bytes("a")


def test_an_account_of_azure_that_is_not_named_is_said(monkeypatch):
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME", raising=False)
    forget_clients()
    with pytest.raises(StorageError, match="no account is named; expected it in AZURE_STORAGE_ACCOUNT_NAME"):
        open_storage("az://container/run").list_keys()


def test_a_server_that_is_not_there_is_one_line(remote, server, nowhere, monkeypatch):
    address = f"http://{nowhere}"
    for name in ("AWS_ENDPOINT_URL", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT"):
        monkeypatch.setenv(name, address)
    forget_clients()
    with pytest.raises(StorageError, match=f"/first/a: cannot read it: .*{address}") as caught:
        remote.read_bytes("a")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["cases/../../../x", "cases//x", "/x", "cases/a\\b"])
def test_a_bucket_with_a_key_that_leads_elsewhere_is_refused_by_its_name(remote, server, key):
    put(server, remote, key, b"1")
    if remote.location.startswith("az") and "\\" in key:
        assert remote.list_keys() == [key.replace("\\", "/")]  # as Azure takes it
        return
    with pytest.raises(DataError, match="plain relative path") as caught:
        remote.list_keys("cases" if key.startswith("cases") else "")
    assert key.replace("\\", "\\\\") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_keys_outside_the_prefix_are_not_listed(remote):
    remote.write_bytes("x", b"1")
    open_storage(remote.location + "-second").write_bytes("y", b"2")
    assert remote.list_keys() == ["x"]


def test_an_object_that_only_stands_for_a_folder_is_not_listed(remote, server):
    """Consoles in a browser make such objects."""
    for key in ("", "data/", "data/empty/", "data/x"):
        put(server, remote, key, b"")
    assert remote.list_keys() == remote.list_keys("data") == ["data/x"]


def test_a_whole_bucket_can_be_a_location(remote):
    whole = open_storage(f"{remote.location.removesuffix('/runs/first')}")
    remote.write_bytes("x", b"1")
    whole.write_bytes("y", b"2")
    assert whole.list_keys() == ["runs/first/x", "y"]
    assert whole.list_keys("runs") == ["runs/first/x"]


def test_a_put_that_collides_is_repeated(remote, monkeypatch):
    """S3 answers so while another put of the same object is under way."""
    put_new, answers = type(remote)._put_new, [False, False]
    monkeypatch.setattr(
        type(remote),
        "_put_new",
        lambda self, *args, **kwargs: answers.pop() if answers else put_new(self, *args, **kwargs),
    )
    assert remote.create_exclusive("x", b"1")
    answers += [False] * NUM_CONFLICTS
    with pytest.raises(StorageError, match="/y: cannot create it: 5 conflicts with other writers"):
        remote.create_exclusive("y", b"1")


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


def test_a_cached_copy_that_has_changed_is_fetched_again(remote):
    remote.write_bytes("x", b"right")
    copy = remote.fetch("x")
    copy.write_bytes(b"wrong")
    assert remote.fetch("x").read_bytes() == b"right"


def counted_downloads(monkeypatch, *, change=lambda number, path: None):
    """Give the list of what is downloaded from S3; each download can be changed by its number."""
    download, names = s3.S3Storage._download, []

    def counted(self, name, head, path):
        download(self, name, head, path)
        names.append(name.rpartition("/")[2])
        change(len(names), path)

    monkeypatch.setattr(s3.S3Storage, "_download", counted)
    return names


def test_a_copy_is_neither_fetched_nor_read_again(s3_storage, monkeypatch):
    downloads = counted_downloads(monkeypatch)
    s3_storage.write_bytes("x", b"right")
    copy = s3_storage.fetch("x")
    open_path = Path.open

    def opened(path, *args, **kwargs):
        assert path != copy, "a large one takes seconds to read"
        return open_path(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", opened)
    assert s3_storage.fetch("x") == copy
    assert downloads == ["x"]


def test_what_another_process_has_fetched_is_compared_with_its_digest_first(s3_storage, monkeypatch):
    downloads = counted_downloads(monkeypatch)
    s3_storage.write_bytes("x", b"right")
    copy = s3_storage.fetch("x")
    times = copy.stat()
    copy.write_bytes(b"wrong")  # of the same size, and at the same time for all that is known
    os.utime(copy, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(copies, "_compared", set())  # as a process has it that begins
    assert s3_storage.fetch("x").read_bytes() == b"right"
    assert downloads == ["x", "x"]


@pytest.mark.parametrize("num_wrong", [1, 2])
def test_an_object_that_comes_with_another_size_is_fetched_once_more(s3_storage, monkeypatch, num_wrong):
    downloads = counted_downloads(
        monkeypatch, change=lambda number, path: path.write_bytes(b"new") if number <= num_wrong else None
    )
    s3_storage.write_bytes("x", b"right")
    if num_wrong == 1:
        assert s3_storage.fetch("x").read_bytes() == b"right"
    else:
        with pytest.raises(StorageError, match=r"/first/x: 3 bytes came; expected 5\..* try again"):
            s3_storage.fetch("x")
    assert downloads == ["x", "x"]


def fetch_of(storage, name, *, used_s):
    """Fetch an object, use it for a moment, and say when that was."""
    with keeping_copies():
        copy = storage.fetch(name)
    os.utime(copy.parent.with_name(copies._FACTS), (used_s, used_s))
    return copy


def test_the_cache_leaves_space_on_a_small_disk(s3_storage, monkeypatch):
    def used():
        return sum(path.stat().st_size for path in copies._cache_folder().rglob("*") if path.is_file())

    disk = used() + copies.LEFT_BYTES + 2500
    monkeypatch.setattr(copies.shutil, "disk_usage", lambda _: SimpleNamespace(free=disk - used()))
    for number, name in enumerate("abc"):
        s3_storage.write_bytes(name, b"." * 1000)
        fetch_of(s3_storage, name, used_s=number)
    kept = [path.name for path in copies._cache_folder().rglob("?") if path.is_file()]
    assert sorted(kept) == ["b", "c"]


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(s3_storage, monkeypatch):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 2500)
    for name in "abc":
        s3_storage.write_bytes(name, b"." * 1000)
    a = fetch_of(s3_storage, "a", used_s=1000)
    b = fetch_of(s3_storage, "b", used_s=2000)
    with keeping_copies():
        assert s3_storage.fetch("a") == a  # used again: b is the oldest now
    c = s3_storage.fetch("c")
    assert (a.exists(), b.exists(), c.exists()) == (True, False, True)
    assert s3_storage.fetch("b").read_bytes() == b"." * 1000


def test_what_is_in_use_is_not_removed_for_more_until_the_innermost_context_ends(s3_storage, monkeypatch, caplog):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 500)
    for name in "abcd":
        s3_storage.write_bytes(name, b"." * 1000)
    with keeping_copies():
        a = s3_storage.fetch("a")
        with keeping_copies():
            b = s3_storage.fetch("b")
            c = s3_storage.fetch("c")
            assert (a.exists(), b.exists(), c.exists()) == (True, True, True)
            assert "bytes more than it should have; all else is in use" in caplog.text
        d = s3_storage.fetch("d")
        assert (a.exists(), b.exists(), c.exists(), d.exists()) == (True, False, False, True)
    assert s3_storage.fetch("b").exists()
    assert (a.exists(), d.exists()) == (False, False)


def test_outside_of_a_context_a_copy_stays_as_long_as_its_process(s3_storage, monkeypatch):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 500)
    for name in "ab":
        s3_storage.write_bytes(name, b"." * 1000)
    a = s3_storage.fetch("a")
    with keeping_copies():
        s3_storage.fetch("b")
    assert a.exists()


def hold(location, held, end):
    with keeping_copies():
        open_storage(location).fetch("a")
        held.set()
        end.wait(60)
        os._exit(9)


def test_what_another_process_uses_stays_and_goes_once_it_is_killed(s3_storage, monkeypatch):
    monkeypatch.setattr(copies, "CACHE_LIMIT_BYTES", 500)
    for name in "abc":
        s3_storage.write_bytes(name, b"." * 1000)
    context = multiprocessing.get_context("fork")
    held, end = context.Event(), context.Event()
    process = context.Process(target=hold, args=(s3_storage.location, held, end))
    process.start()
    assert held.wait(60)
    with keeping_copies():
        b = s3_storage.fetch("b")
        (a,) = copies._cache_folder().glob("*/content/a")
    end.set()
    process.join()
    assert process.exitcode == 9
    with keeping_copies():
        c = s3_storage.fetch("c")
    assert (a.exists(), b.exists(), c.exists()) == (False, False, True)


def test_what_a_killed_download_left_is_removed(s3_storage, monkeypatch):
    s3_storage.write_bytes("a", b"." * 1000)
    with keeping_copies():
        folder = s3_storage.fetch("a").parent.parent
    (folder / "content/a").unlink()
    (folder / "partial").mkdir()
    (folder / "partial/a.1F").write_bytes(b"." * 700)
    s3_storage.fetch("a")
    assert sorted(path.name for path in folder.iterdir()) == ["content", "facts"]


def test_ray_train_keeps_its_own_state_there(remote):
    from ray.train.v2._internal.execution.storage import StorageContext

    from orchestrator.ray_backend.tasks import _ray_train_storage

    arguments = _ray_train_storage(SimpleNamespace(output=remote.location))
    # As a worker gets it. Its maker writes a file, and looks for it again.
    arguments = pickle.loads(pickle.dumps(arguments))
    StorageContext(**arguments, experiment_dir_name="T1-lung-fold0")
    assert remote.list_keys() == ["ray_train/T1-lung-fold0/.validate_storage_marker"]
