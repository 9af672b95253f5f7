"""The live page is for whoever has its address, and shows how far a run is."""

import http.client
import threading
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.driver.results.live import LiveReport, live_state
from orchestrator.driver.status import RunStatus, TrainingUnderWay
from orchestrator.errors import IntegrityError
from orchestrator.report.live.server import LiveServer
from orchestrator.report.live.state import CellState

TRAININGS = load_study().trainings(matrix="all", only=("T1-infection-*",), preset=PRESETS["smoke"])


@contextmanager
def serving(make_page=lambda: "<p>page</p>"):
    with LiveServer(make_page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def ask(server: LiveServer, path: str, *, method="GET", headers=(), host: str | None = None):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.putrequest(method, path, skip_host=True)
    for value in [host or f"127.0.0.1:{server.port}"] if not headers else ():
        connection.putheader("Host", value)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_who_has_the_address_gets_the_page():
    with serving() as server:
        assert server.address == f"http://127.0.0.1:{server.port}/{server.token}/"
        answer, body = ask(server, f"/{server.token}/")
        assert (answer.status, body) == (200, b"<p>page</p>")
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Refresh"] == "10"
        assert ask(server, f"/{server.token}/", host=f"LOCALHOST:{server.port}")[0].status == 200
        answer, body = ask(server, f"/{server.token}/", method="HEAD")
        assert (answer.status, answer.headers["Content-Length"], body) == (200, "11", b"")


def test_nobody_else_gets_anything():
    with serving() as server:
        token = server.token
        paths = ["/", "/x/", f"/{token}", f"/{token}/x", f"/{token}/../{token}/", f"/{token[:-1]}/", "/etc/passwd"]
        paths += [f"/{token}/?a=b", f"/{token}/%2e%2e/", "/%00", f"http://evil.example/{token}/"]
        for path in paths:
            answer, body = ask(server, path)
            assert (path, answer.status, body) == (path, 404, b"")
        # A name of somebody else that leads to this machine, and no name or two of them.
        for host in (
            "evil.example",
            f"evil.example:{server.port}",
            "127.0.0.1",
            f"127.0.0.1:{server.port}.evil.example",
        ):
            assert ask(server, f"/{token}/", host=host)[0].status == 404
        right = ("Host", f"127.0.0.1:{server.port}")
        assert ask(server, f"/{token}/", headers=[("Accept", "*/*")])[0].status == 404
        assert ask(server, f"/{token}/", headers=[right, ("Host", "evil.example")])[0].status == 404
        assert ask(server, f"/{token}/", method="POST")[0].status == 501


def test_each_server_has_a_token_of_its_own_and_listens_on_loopback_only():
    with LiveServer(str) as one, LiveServer(str) as other:
        assert one.token != other.token
        assert len(one.token) >= 32
        assert one.server_address[0] == "127.0.0.1"


def status(**changes) -> RunStatus:
    nan = float("nan")
    first, second, third, fourth, *_ = (training.id for training in TRAININGS)
    values = {
        "trainings": tuple(training.id for training in TRAININGS),
        "done": frozenset({first}),
        "under_way": (
            TrainingUnderWay(id=second, stage="train", since=datetime(2026, 1, 1, tzinfo=UTC), epoch=3, num_epochs=10,
                             pseudo_dice=0.5, epoch_elapsed_s=60.0, host="node7"),
            TrainingUnderWay(id=third, stage="predict", since=datetime(2026, 1, 1, tzinfo=UTC), epoch=10,
                             num_epochs=10, pseudo_dice=nan, epoch_elapsed_s=nan, host=""),
        ),
        "failed": {f"train {fourth}": "no memory <b>"},
        "delayed": {},
        "waiting": (),
        "left_out": frozenset({TRAININGS[5].id}),
        "training_s": 0.0,
        "gpu_hours": {},
        "machines": {},
        "machines_missing": 0,
        "machines_waiting": {},
    }  # fmt: skip
    return RunStatus(**(values | changes))


def test_the_matrix_says_what_has_become_of_each_training():
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    state = live_state(status(), trainings=TRAININGS, driver="", now=now, remaining_s=3600.0)
    assert state.remaining == "about 1 h 00 min"
    assert live_state(status(), trainings=TRAININGS, driver="", now=now).remaining == ""
    cells = {cell.title.partition(":")[0].partition(";")[0]: cell for line in state.lines for cell in line.cells}
    assert len(cells) == len(TRAININGS)
    texts = [cells[training.id].text for training in TRAININGS[:5]]
    assert texts == ["done", "epoch 3 of 10", "predict", "failed", "waiting"]
    assert cells[TRAININGS[1].id].kind == "under-way"
    assert "7 min" in cells[TRAININGS[1].id].title
    assert {machine.name: machine.trainings for machine in state.machines}["node7"] == (TRAININGS[1].id,)
    assert state.counts.startswith("1 done, 2 under way, 1 failed")
    assert state.time == "2026-01-02 03:04:05 UTC"
    assert {cell.state for cell in cells.values()} == set(CellState)


def test_a_page_is_kept_for_a_moment_and_while_a_file_is_being_written(monkeypatch):
    made, now = [], [0.0]
    report = LiveReport(None, None, clock=lambda: now[0])

    def make():
        made.append(1)
        if len(made) == 2:
            raise IntegrityError("half a file")
        return f"page {len(made)}"

    monkeypatch.setattr(report, "_make", make)
    assert report.page() == report.page() == "page 1"
    now[0] = 5.0
    assert report.page() == "page 1"
    now[0] = 10.0
    assert report.page() == "page 3"


def test_a_run_that_cannot_be_read_is_said_at_once(monkeypatch):
    report = LiveReport(None, None)
    monkeypatch.setattr(report, "_make", lambda: (_ for _ in ()).throw(IntegrityError("damaged")))
    with pytest.raises(IntegrityError, match="damaged"):
        report.page()
