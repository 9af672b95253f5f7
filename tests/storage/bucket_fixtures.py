"""Fixtures that open a bucket of each kind; a module of tests asks for them by `pytest_plugins`."""

import uuid
from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace

import botocore.endpoint
import pytest
from fault_server import BUCKETS, azure_server, forget_clients, google_server, s3_server

from orchestrator.storage import copies, object_store
from orchestrator.storage.filesystem import open_storage

PIECE_BYTES = 5 * 1024**2
"""Where a file is sent in pieces; S3 takes none that are smaller."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory):
    """Give the running server of a scheme."""
    kinds = {
        "s3": s3_server,
        "gs": google_server,
        "az": lambda: azure_server(tmp_path_factory.mktemp("azurite")),
    }
    running = {}
    with ExitStack() as stack:

        def server(scheme):
            if scheme not in running:
                running[scheme] = stack.enter_context(kinds[scheme]())
            return running[scheme]

        yield server


@pytest.fixture
def open_bucket(servers, tmp_path, monkeypatch):
    """Make a bucket, and open a prefix of it."""
    # The waiting between two tries is the libraries'; its length is no claim of ours.
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda _: None))
    backoff = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=5), "base": 2}
    monkeypatch.setattr(object_store, "RETRIES", object_store.RETRIES | {"backoff": backoff})
    monkeypatch.setattr(object_store, "PIECE_BYTES", PIECE_BYTES)
    monkeypatch.setattr(copies, "_cache_folder", lambda: _made(tmp_path / "cache"))

    def opened(scheme):
        server = servers(scheme)
        server.door.fail("InternalError", times=0)
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        forget_clients()
        name = f"bucket{uuid.uuid4().hex}"
        server.make_bucket(name)
        return open_storage(f"{scheme}://{name}/runs/first")

    yield opened
    forget_clients()


@pytest.fixture(params=BUCKETS)
def remote(request, open_bucket):
    """Open a bucket of each kind."""
    return open_bucket(request.param)


@pytest.fixture
def server(remote, servers):
    """Give the server that keeps it."""
    return servers(remote.location.partition("://")[0])


@pytest.fixture
def s3_storage(open_bucket):
    """Open a bucket of S3."""
    return open_bucket("s3")


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder
