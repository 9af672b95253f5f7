"""An S3 server on loopback that fails as the true one does now and then: moto's behind a door that misbehaves."""

import threading
from collections import Counter
from contextlib import contextmanager

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

FAILURES = {
    "InternalError": ("500 Internal Server Error", "We encountered an internal error. Please try again."),
    "SlowDown": ("503 Slow Down", "Please reduce your request rate."),
}


class Door:
    """Lets every request fail the first `num_failures` times; with `answer_lost` it is carried out nevertheless."""

    def __init__(self):
        self.code, self.num_failures, self.answer_lost = "InternalError", 0, False
        self.seen = Counter()
        self._application = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()

    def fail(self, code, *, times, answer_lost=False):
        self.code, self.num_failures, self.answer_lost = code, times, answer_lost
        self.seen.clear()

    def __call__(self, environ, start_response):
        request = (environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
        with self._lock:
            self.seen[request] += 1
            fails = self.seen[request] <= self.num_failures
        if not fails:
            return self._application(environ, start_response)
        if self.answer_lost:
            for _ in self._application(environ, lambda *_: None):
                pass
        else:
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        status, message = FAILURES[self.code]
        start_response(status, [("Content-Type", "application/xml")])
        return [f"<Error><Code>{self.code}</Code><Message>{message}</Message></Error>".encode()]


@contextmanager
def failing_s3():
    """Context with the door and the address of a running server."""
    door = Door()
    server = make_server("127.0.0.1", 0, door, threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield door, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
