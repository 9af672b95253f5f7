"""An S3 that fails now and then, for runs with everything in a bucket: moto behind a door.

    python -m bench.slurm.failing_s3 --port 5000 [--address 127.0.0.1] [--share 0.05] [--seed 0]

So large a share of the requests is answered by `500 InternalError` or `503 SlowDown`; every other one of these is
carried out nevertheless, as if its answer were lost. When it ends, it says how many of how many have failed.
"""

import argparse
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

FAILURES = {"InternalError": "500 Internal Server Error", "SlowDown": "503 Slow Down"}


class Door:
    """Lets some requests fail, drawn by chance."""

    def __init__(self, application: Any, *, share: float, seed: int) -> None:
        self.num_requests = self.num_failed = 0
        self._application = application
        self._share = share
        self._rng = random.Random(seed)
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer a request, as WSGI has it."""
        with self._lock:
            self.num_requests += 1
            fails = self._rng.random() < self._share
            self.num_failed += fails
            code, is_carried_out = self._rng.choice(sorted(FAILURES)), self._rng.random() < 0.5
        if not fails:
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer
        if is_carried_out:
            for _ in self._application(environ, lambda *_: None):
                pass
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(FAILURES[code], [("Content-Type", "application/xml")])
        return [f"<Error><Code>{code}</Code><Message>played</Message></Error>".encode()]


def main() -> None:
    """Serve until a SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m bench.slurm.failing_s3", description="An S3 that fails at times.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--address", default="127.0.0.1", help="of this machine (default: loopback)")
    parser.add_argument("--share", type=float, default=0.05, help="of the requests that fail (default: 0.05)")
    parser.add_argument("--seed", type=int, default=0, help="of what fails (default: 0)")
    options = parser.parse_args()
    if not 0 <= options.share < 1:
        parser.error(f"--share {options.share:g}: expected at least 0 and less than 1")
    door = Door(DomainDispatcherApplication(create_backend_app), share=options.share, seed=options.seed)
    server = make_server(options.address, options.port, door, threaded=True)
    # From another thread, since the server waits for itself to end.
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    server.serve_forever()
    sys.stdout.write(f"{door.num_failed} of {door.num_requests} requests failed\n")


if __name__ == "__main__":
    main()
