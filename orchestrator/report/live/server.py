"""A page handed out to browsers of this machine that know its token, and to nobody else.

Other users of the machine can reach a loopback port, and any web page can make a browser ask it for something.
Therefore the address has a token, which is compared in constant time; the host that is asked for must be this one, or a
name that an attacker lets lead here would do (DNS rebinding); and nothing of a request is used for anything else.
"""

import hmac
import logging
import secrets
import sys
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from orchestrator.report.live.state import REFRESH_S

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_SLOWEST_REQUEST_S = 10.0
_HEADERS = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    # The page has styles and pictures of its own, and nothing else.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The address is a secret.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class LiveServer(ThreadingHTTPServer):
    """Hands out one page, made anew for each request."""

    daemon_threads = True

    def __init__(self, make_page: Callable[[], str], *, port: int = 0) -> None:
        """Listen on the loopback address, at a free port unless one is given; raises OSError if it is taken."""
        self.make_page = make_page
        self.token = secrets.token_urlsafe(24)
        super().__init__((LOOPBACK, port), _Handler)

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self.server_address[1])

    @property
    def address(self) -> str:
        """Return the address of the page, with the token."""
        return f"http://{LOOPBACK}:{self.port}/{self.token}/"

    def handle_error(self, *_: object) -> None:
        """Keep what went wrong with one request, a browser that left for example, from the terminal."""
        logger.debug("a request failed: %r", sys.exception())

    def is_asked(self, path: str, *, host: str) -> bool:
        """Whether a request is for the page, and comes by an address of this machine."""
        hosts = {f"{name}:{self.port}" for name in (LOOPBACK, "localhost")}
        is_right = hmac.compare_digest(path.encode(errors="replace"), f"/{self.token}/".encode())
        return host.lower() in hosts and is_right


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    timeout = _SLOWEST_REQUEST_S
    server_version = "report"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page, or with nothing."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer as GET, without the page."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not self.server.is_asked(self.path, host=hosts[0]):
            self.send_response(HTTPStatus.NOT_FOUND)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        page = self.server.make_page().encode()
        self.send_response(HTTPStatus.OK)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Refresh", str(REFRESH_S))
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        if with_body:
            self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Keep requests out of the terminal: they hold the token."""
