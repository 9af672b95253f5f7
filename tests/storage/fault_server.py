"""Servers of buckets on loopback that fail as the true ones do now and then, behind a door that misbehaves.

S3 is moto. Google's storage is played: moto once more, whose S3 takes the same XML, with Google's names for what is
called otherwise. Azure's is Microsoft's own emulator, Azurite, where it is installed.
"""

import base64
import hashlib
import hmac
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from orchestrator.storage import object_store, s3

FAILURES = {
    "InternalError": ("500 Internal Server Error", "We encountered an internal error. Please try again."),
    "SlowDown": ("503 Slow Down", "Please reduce your request rate."),
    "AccessDenied": ("403 Forbidden", "Access Denied."),
}
_AZURE_ACCOUNT = "devstoreaccount1"
# The one that every Azurite has, as its manual says.
_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


class Door:
    """Lets every request fail the first `num_failures` times; with `answer_lost` it is carried out nevertheless.

    With `cut`, the connection is closed instead of an answer. Requests fail whose query has one of the words, or all.
    """

    def __init__(self, application=None):
        self.fail("InternalError", times=0)
        self._application = application or DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def fail(self, code, *, times, answer_lost=False, cut=False, words=("",)):
        self.code, self.num_failures, self.answer_lost, self.cut, self.words = code, times, answer_lost, cut, words
        self.seen = Counter()

    def __call__(self, environ, start_response):
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        with self._lock:
            self.seen[request] += 1
            fails = self.seen[request] <= self.num_failures and any(word in request[2] for word in self.words)
        if not fails:
            return self._application(environ, start_response)
        if self.answer_lost:
            for _ in self._application(environ, lambda *_: None):
                pass
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        if self.cut:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        status, message = FAILURES[self.code]
        start_response(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{self.code}</Code><Message>{message}</Message></Error>".encode()]


@contextmanager
def served(application):
    """Context with the address of a server."""
    server = make_server("127.0.0.1", 0, application, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def failing_s3():
    """Context with the door and the address of a running S3."""
    door = Door()
    with served(door) as address:
        yield door, address


@contextmanager
def s3_of_environment(folder, monkeypatch, *, bucket):
    """Context with the door of an S3 with a bucket, as the environment says; a folder is that of temporary files."""
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with failing_s3() as (door, address):
        for name, value in _aws(address).items():
            monkeypatch.setenv(name, value)
        s3._new_client.cache_clear()
        s3._client().create_bucket(Bucket=bucket)
        yield door
    s3._new_client.cache_clear()


@dataclass(frozen=True, kw_only=True)
class Server:
    """A server with buckets, behind a door."""

    scheme: str
    door: Door
    environment: dict[str, str]
    """With which a client finds it."""
    make_bucket: Callable[[str], object]
    put: Callable[[str, str, bytes], object]
    """Writes an object, by bucket and name, whatever its name is."""


@contextmanager
def s3_server():
    """Context with an S3."""
    with failing_s3() as (door, address):
        yield _like_s3("s3", door=door, address=address, environment=_aws(address))


@contextmanager
def google_server():
    """Context with what looks like Google's storage to a client, as far as we use it."""
    moto = DomainDispatcherApplication(create_backend_app)
    door = Door(_with_names_of_google(moto))
    with served(door) as address, served(moto) as address_of_moto:
        environment = {"GOOGLE_BASE_URL": address, "GOOGLE_BEARER_TOKEN": "test"}
        yield _like_s3("gs", door=door, address=address_of_moto, environment=environment)


@contextmanager
def azure_server(folder):
    """Context with Azurite."""
    program, port = azurite(), _free_port()
    command = [program, "--silent", "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    with (folder / "azurite.log").open("wb") as log:
        process = subprocess.Popen([*command, "--skipApiVersionCheck", "--disableTelemetry"], stdout=log, stderr=log)
    try:
        _wait_for(port, process)
        door = Door(_Forward(port))
        with served(door) as address:
            environment = {
                "AZURE_STORAGE_ACCOUNT_NAME": _AZURE_ACCOUNT,
                "AZURE_STORAGE_ACCOUNT_KEY": _AZURE_KEY,
                "AZURE_STORAGE_ENDPOINT": f"{address}/{_AZURE_ACCOUNT}",
                "AZURE_ALLOW_HTTP": "true",
            }
            yield Server(
                scheme="az",
                door=door,
                environment=environment,
                make_bucket=lambda name: _ask_azure(port, f"/{_AZURE_ACCOUNT}/{name}", query="restype=container"),
                put=lambda bucket, name, data: _ask_azure(
                    port, f"/{_AZURE_ACCOUNT}/{bucket}/{quote(name)}", body=data, more={"x-ms-blob-type": "BlockBlob"}
                ),
            )
    finally:
        process.terminate()
        process.wait(timeout=60)


def azurite():
    """Return the program of Azure's emulator; None if it is not installed."""
    own = Path(sys.prefix) / "azurite" / "node_modules" / ".bin"
    return shutil.which("azurite-blob") or shutil.which("azurite-blob", path=own)


BUCKETS = [
    "s3",
    "gs",
    pytest.param(
        "az", marks=pytest.mark.skipif(azurite() is None, reason="azurite is not installed (npm install azurite)")
    ),
]
"""Schemes, as parameters of tests."""


def forget_clients():
    """Have clients made anew, from the environment as it is now."""
    boto3.DEFAULT_SESSION = None
    s3._new_client.cache_clear()
    object_store._new_store.cache_clear()


def _aws(address):
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def _like_s3(scheme, *, door, address, environment):
    client = boto3.client(
        "s3", endpoint_url=address, aws_access_key_id="test", aws_secret_access_key="test", region_name="us-east-1"
    )
    return Server(
        scheme=scheme,
        door=door,
        environment=environment,
        make_bucket=lambda name: client.create_bucket(Bucket=name),
        put=lambda bucket, name, data: client.put_object(Bucket=bucket, Key=name, Body=data),
    )


def _with_names_of_google(application):
    """Return moto's S3 with the conditions, metadata and generations that Google's XML interface has in their place."""

    def answer(environ, start_response):
        if environ.pop("HTTP_X_GOOG_IF_GENERATION_MATCH", None) == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        for name in [name for name in environ if name.startswith("HTTP_X_GOOG_META_")]:
            environ[name.replace("GOOG", "AMZ")] = environ.pop(name)

        def start(status, headers, *more):
            renamed = [(name.lower().replace("x-amz-meta-", "x-goog-meta-"), value) for name, value in headers]
            return start_response(status, [*renamed, ("x-goog-generation", "1")], *more)

        return application(environ, start)

    return answer


class _Forward:
    """Hands requests on to another port of this machine."""

    def __init__(self, port):
        self._port = port

    def __call__(self, environ, start_response):
        headers = {
            name.removeprefix("HTTP_").replace("_", "-"): value
            for name, value in environ.items()
            if name.startswith("HTTP_") or (name in {"CONTENT_TYPE", "CONTENT_LENGTH"} and value)
        }
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        connection = HTTPConnection("127.0.0.1", self._port)
        try:
            connection.request(environ["REQUEST_METHOD"], environ["RAW_URI"], body=body, headers=headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _OF_CONNECTION]
        if environ["REQUEST_METHOD"] != "HEAD":
            kept = [
                *(pair for pair in kept if pair[0].lower() != "content-length"),
                ("Content-Length", str(len(content))),
            ]
        start_response(f"{response.status} {response.reason}", kept)
        return [content]


_OF_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "date", "server"}


def _ask_azure(port, path, *, query="", body=b"", more=None):
    """Send a PUT that is signed as Azure asks: a line for each of eleven headers, of which one may be there."""
    headers = {"x-ms-date": formatdate(usegmt=True), "x-ms-version": "2023-11-03"} | (more or {})
    lines = ["PUT", "", "", str(len(body) or ""), *[""] * 8]
    lines += [f"{name}:{headers[name]}" for name in sorted(headers)]
    lines += [f"/{_AZURE_ACCOUNT}{path}", *([query.replace("=", ":")] if query else [])]
    digest = hmac.new(base64.b64decode(_AZURE_KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {_AZURE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    connection = HTTPConnection("127.0.0.1", port)
    connection.request("PUT", f"{path}?{query}" if query else path, body=body, headers=headers)
    response = connection.getresponse()
    assert response.status == 201, response.read()
    connection.close()


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _wait_for(port, process):
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None
        assert time.monotonic() < deadline
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
