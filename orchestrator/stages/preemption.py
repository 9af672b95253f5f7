"""Who may take a machine away from a training, and how each of them announces it."""

import json
import time
from collections.abc import Callable
from http.client import HTTPException
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

from orchestrator.storage import run_paths
from orchestrator.storage.interface import Storage
from orchestrator.training.stop_request import Watch

METADATA_SERVICE = "http://169.254.169.254"
"""Of every EC2 machine, for itself alone."""
METADATA_TIMEOUT_S = 2.0
_TOKEN_LIFE_S = 21600
"""The longest that the service grants."""

SPOT_EVERY_S = 5.0
"""Amazon's own advice; a notice comes two minutes before the end."""
MARKER_EVERY_S = 2.0
REMOTE_MARKER_EVERY_S = 15.0
"""On S3 each look costs a request."""


class SpotNotices:
    """Asks an EC2 machine, by version 2 of its metadata service, whether it is about to be taken away."""

    def __init__(self, endpoint: str = METADATA_SERVICE, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._endpoint = endpoint
        self._clock = clock
        # The service answers the machine itself only: no proxy may come in between.
        self._opener = build_opener(ProxyHandler({}))
        self._token = ""
        self._token_until_s = 0.0

    def look(self) -> str:
        """Return what the notice says, or nothing if there is none; raises OSError if the service does not answer."""
        try:
            notice = self._get("/latest/meta-data/spot/instance-action")
        except HTTPError as error:
            if error.code == 401:
                self._token = ""  # asked for anew at the next look
            elif error.code != 404:
                raise
            return ""
        try:
            content = json.loads(notice)
            return f"Amazon takes the spot machine back ({content['action']} at {content['time']})"
        except (ValueError, TypeError, KeyError):
            return f"Amazon takes the spot machine back ({notice.decode(errors='replace')[:80]})"

    def _get(self, path: str) -> bytes:
        if not self._token or self._clock() >= self._token_until_s:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE_S)}
            self._token_until_s = self._clock() + _TOKEN_LIFE_S / 2
            request = Request(f"{self._endpoint}/latest/api/token", method="PUT", headers=headers)
            self._token = self._fetch(request).decode()
        return self._fetch(Request(f"{self._endpoint}{path}", headers={"X-aws-ec2-metadata-token": self._token}))

    def _fetch(self, request: Request) -> bytes:
        try:
            with self._opener.open(request, timeout=METADATA_TIMEOUT_S) as response:
                content: bytes = response.read()
                return content
        except HTTPException as error:
            raise OSError(f"{request.full_url}: {error}") from error


def watch_spot_notices() -> Watch:
    """Return a watch on the machine's own spot notice."""
    return Watch(look=SpotNotices().look, every_s=SPOT_EVERY_S)


def watch_marker(storage: Storage, *, training_id: str) -> Watch:
    """Return a watch on the marker that a driver leaves in the output location."""
    key = run_paths.stop_request(training_id)
    every_s = REMOTE_MARKER_EVERY_S if storage.is_remote else MARKER_EVERY_S

    def look() -> str:
        if not storage.exists(key):
            return ""
        return storage.read_bytes(key).decode(errors="replace").strip() or "the driver asked for it"

    return Watch(look=look, every_s=every_s)


def ask_to_stop(storage: Storage, *, training_id: str, reason: str) -> None:
    """Leave the marker that asks a training, wherever it runs, to save a checkpoint and stop."""
    storage.write_bytes(run_paths.stop_request(training_id), reason.encode())


def forget_request(storage: Storage, *, training_id: str) -> None:
    """Remove the marker of an earlier attempt.

    The driver does it before it starts the next one: a training that did it itself, once it has come so far, would
    remove what it was asked meanwhile.
    """
    storage.delete(run_paths.stop_request(training_id))
