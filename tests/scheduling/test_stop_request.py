"""Claims about who may ask a training to stop, and that it hears them."""

import os
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from orchestrator.errors import PreemptedError, StorageError
from orchestrator.stages.preemption import SpotNotices, ask_to_stop, forget_request, watch_marker
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.stop_request import StopRequest, Watch

TRAINING = "T1-lung-fold0"
IN_A_THREAD = """
import os, signal, threading, time
from orchestrator.training.stop_request import StopRequest, listen_to_signals

signal.signal(signal.SIGTERM, lambda number, frame: (print("old handler", flush=True), os._exit(7)))
listen_to_signals()

def train():
    with StopRequest() as request:
        print("ready", flush=True)
        while not request.reason():
            time.sleep(0.01)
        print(request.reason(), flush=True)

thread = threading.Thread(target=train)
thread.start()
thread.join()
signal.pause()
"""

FORKED = """
import os, signal
from orchestrator.training.stop_request import StopRequest

with StopRequest() as request:
    here, there = os.pipe()
    child = os.fork()
    if not child:
        os.write(there, b"ready")
        signal.pause()
    os.read(here, 5)
    os.kill(child, signal.SIGTERM)
    print(os.WTERMSIG(os.waitpid(child, 0)[1]), repr(request.reason()))
"""


def wait_for_reason(request):
    ended = threading.Event()
    for _ in range(30_000):
        if request.reason():
            return request.reason()
        ended.wait(0.01)
    raise AssertionError("nobody asked within minutes")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_asks_and_the_handlers_are_as_before_afterwards(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert request.reason() == ""
        os.kill(os.getpid(), number)
        assert wait_for_reason(request) == f"its process received {signal.Signals(number).name}"
    assert signal.getsignal(number) == before


def test_a_training_in_a_thread_hears_signals_and_the_second_one_does_what_it_did_before():
    with subprocess.Popen([sys.executable, "-c", IN_A_THREAD], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "its process received SIGTERM\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "old handler\n"
            assert process.wait() == 7
        finally:
            process.kill()


def test_a_process_that_a_training_forks_ends_by_a_signal_and_the_training_does_not():
    ended = subprocess.run([sys.executable, "-c", FORKED], stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert ended.stdout == f"{signal.SIGTERM.value} ''\n"


def test_the_marker_of_the_driver_asks_also_before_the_training_has_begun(tmp_path):
    storage = open_storage(tmp_path)
    ask_to_stop(storage, training_id=TRAINING, reason="a longer training needs its GPU")
    with StopRequest([watch_marker(storage, training_id=TRAINING)]) as request:
        assert wait_for_reason(request) == "a longer training needs its GPU"


def test_the_next_attempt_does_not_hear_what_the_one_before_was_asked(tmp_path):
    storage = open_storage(tmp_path)
    ask_to_stop(storage, training_id=TRAINING, reason="an older request")
    forget_request(storage, training_id=TRAINING)
    with StopRequest([watch_marker(storage, training_id=TRAINING)]) as request:
        ask_to_stop(storage, training_id=TRAINING, reason="a newer request")
        assert wait_for_reason(request) == "a newer request"


def test_the_first_reason_is_kept():
    with StopRequest() as request:
        request.ask("first")
        request.ask("second")
        assert request.reason() == "first"


def test_what_cannot_be_asked_now_is_asked_later():
    answers = iter([StorageError("away"), OSError("away"), "it is over"])

    def look():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with StopRequest([Watch(look=look, every_s=0.001)]) as request:
        assert wait_for_reason(request) == "it is over"


def test_a_training_that_was_asked_to_stop_may_be_repeated_any_number_of_times():
    assert PreemptedError.is_preemption
    assert PreemptedError.can_retry
    assert not StorageError.is_preemption


class MetadataService(BaseHTTPRequestHandler):
    """What an EC2 machine can ask about itself, version 2: without a token there is no answer."""

    notice: str | None = None
    tokens: tuple[str, ...] = ()

    def log_message(self, *_):
        pass

    def answer(self, code, text=""):
        self.send_response(code)
        self.end_headers()
        self.wfile.write(text.encode())

    def do_PUT(self):
        assert self.path == "/latest/api/token"
        assert 0 < int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
        self.server.tokens += (f"token-{len(self.server.tokens)}",)
        self.answer(200, self.server.tokens[-1])

    def do_GET(self):
        assert self.path == "/latest/meta-data/spot/instance-action"
        if self.headers.get("X-aws-ec2-metadata-token") != self.server.tokens[-1]:
            self.answer(401)
        elif self.server.notice is None:
            self.answer(404)
        else:
            self.answer(200, self.server.notice)


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), MetadataService)
    server.notice, server.tokens = None, ()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_spot_notice_is_heard_and_its_token_is_used_again_and_made_anew(service, monkeypatch):
    # A proxy would be asked about itself.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    notices = SpotNotices(f"http://127.0.0.1:{service.server_port}")
    assert notices.look() == ""
    assert notices.look() == ""
    assert len(service.tokens) == 1
    service.tokens += ("another",)
    assert notices.look() == ""
    service.notice = '{"action": "terminate", "time": "2026-11-24T17:00:00Z"}'
    assert notices.look() == "Amazon takes the spot machine back (terminate at 2026-11-24T17:00:00Z)"
    assert len(service.tokens) == 3


def test_a_notice_in_an_unknown_form_is_a_notice(service):
    service.notice = "soon"
    assert "soon" in SpotNotices(f"http://127.0.0.1:{service.server_port}").look()


def test_a_machine_without_a_metadata_service_is_no_error_of_a_training():
    request = StopRequest([Watch(look=SpotNotices("http://127.0.0.1:9").look, every_s=0.001)])
    with request:
        threading.Event().wait(0.05)
        assert request.reason() == ""
