"""What a sweep may take: trials are begun as long as hours, or money, last by what trials so far took."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from played_sweeps import Played, played, request_of, study_with_presets, words

from orchestrator.cli.sweep import main
from orchestrator.configuration import counted
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.sweeps.budget import expected_hours

RATES = "initial_learning_rate: {loguniform: [0.0001, 0.1]}\n"
PBT = ("--stopping", "pbt", "--first-epochs", "1")
EPOCHS = "num_epochs: {grid: [1, 100, 2, 3, 5]}\n"


@pytest.fixture
def brain(tmp_path) -> Path:
    return study_with_presets(tmp_path)


def hours_per_epoch(hours: float):
    """Return what a training takes whose epochs take so long."""
    return lambda training: hours * dict(training.model.changes).get("num_epochs", 4)


def test_the_first_trial_is_alone_and_then_as_many_begin_as_fit(brain, monkeypatch):
    # Each takes two hours: one, and with eight hours left four at once, and then none.
    runs = Played(monkeypatch, hours=hours_per_epoch(0.5))
    outcome = played(request_of(brain, RATES, "--trials", "16", "--max-hours", "10"))
    assert runs.num_at_once == [1, 4]
    assert outcome.stopped_for_hours
    assert sum(one.hours for one in outcome.results) == 10


def test_trials_count_with_their_own_epochs(brain, monkeypatch):
    # One epoch an hour: the first takes one, the next would take 100 of the nine that are left.
    runs = Played(monkeypatch, hours=hours_per_epoch(1.0))
    outcome = played(request_of(brain, EPOCHS, "--sampler", "grid", "--trials", "5", "--max-hours", "10"))
    assert runs.num_at_once == [1]
    assert outcome.stopped_for_hours
    # 1 + 2 + 3 of seven hours; the one of five epochs does not fit.
    runs = Played(monkeypatch, hours=hours_per_epoch(1.0))
    space = EPOCHS.replace("100, ", "")
    played(request_of(brain, space, "--sampler", "grid", "--trials", "4", "--max-hours", "7", "--name", "n"))
    assert runs.num_at_once == [1, 2]


def test_a_trial_fits_if_it_may_take_as_long_as_the_slowest_so_far(brain, monkeypatch):
    # One hour an epoch, but two of those with two: (1), then (2 at 2 hours = 4), 25 are left and each epoch counts 2.
    space = "num_epochs: {grid: [1, 2, 3, 4, 5, 6]}\n"
    runs = Played(
        monkeypatch,
        hours=lambda training: hours_per_epoch(2.0 if training.id == "trial001-fold0" else 1.0)(training),
    )
    words = ("--sampler", "grid", "--trials", "6", "--max-hours", "30", "--at-once", "2")
    outcome = played(request_of(brain, space, *words))
    # 1; 2 and 3 (4 + 3 hours); 22 are left: 4 and 5 count 18; 13 are left: 6 counts 12.
    assert runs.num_at_once == [1, 2, 2, 1]
    assert sum(one.hours for one in outcome.results) == 23


def test_what_workers_of_a_trial_share_takes_less(brain):
    request = request_of(brain, RATES)
    (alone,), (four,) = expected_hours(request), expected_hours(request, (("workers", 4),))
    # Four workers are 4 / 1.75 times as fast.
    assert alone / four == pytest.approx(4 / 1.75)


def test_attempts_that_failed_count(brain, monkeypatch):
    """Two trials of an hour each: the second failed for three hours before, of which its own record knows nothing."""
    Played(monkeypatch)
    request = request_of(brain, RATES, "--trials", "2")
    played(request)
    storage = open_storage(request.output)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    events = []
    for hours, kind in ((0, "stage_started"), (3, "stage_failed"), (3, "stage_started"), (4, "stage_finished")):
        time = (start + timedelta(hours=hours)).isoformat()
        told = {"stage_failed": {"error": "x", "final": False}, "stage_finished": {"elapsed_s": 3600}}.get(kind, {})
        own = {"stage": "train trial001-fold0", "stage_kind": "train", "attempt": 1}
        events.append({"time": time, "kind": kind, **own, **told})
    lines = "\n".join(map(json.dumps, events)) + "\n"
    storage.write_bytes("events/20260101T000000.000000-00000.jsonl", lines.encode())
    assert [one.hours for one in played(request).results] == [1, 4]
    # A trial that is not scored at all has taken its hours as well.
    write_json(storage, "trials/00002.json", {"first": 2, "trials": [{"initial_learning_rate": 0.01}]})
    storage.write_bytes("events/20260102T000000.000000-00000.jsonl", lines.replace("trial001", "trial002").encode())
    Played(monkeypatch, most=0)
    with pytest.raises(KeyboardInterrupt):
        played(request)
    assert '"hours": 4.0' in storage.read_bytes("sweep.json").decode()


@pytest.mark.parametrize(
    ("others", "num_trials", "told"),
    [
        ((), 4, ""),
        (("--max-hours", "{two}"), 2, ": no more of 4, since"),
        (("--max-cost", "{five_usd}", "--usd-per-hour", "2.5"), 2, " USD at 2.5 an hour: no more of 4, since"),
        (("--max-cost", "{five_usd}", "--machine", "one", "--prices", "{prices}"), 2, " USD at 2.5 an hour"),
        (("--max-hours", "{half}"), 0, ": no more of 4, since"),
    ],
)
def test_a_forecast_keeps_the_limits_and_tells_hours_and_cost(brain, capsys, others, num_trials, told):
    """Two trials are to fit: all take the same."""
    prices = brain.parent / "prices.yaml"
    prices.write_text("date: 2026-01-01\nusd_per_hour: {one: {on_demand: 2.5, spot: 1.0}}\n")
    (hours,) = expected_hours(request_of(brain, RATES))
    values = {"two": 2 * hours, "half": hours / 2, "five_usd": 2 * hours * 2.5, "prices": prices}
    given = [one.format_map(values) for one in others]
    assert main(words(brain, RATES, *given, "--simulate")) == (0 if num_trials else 1)
    out = " ".join(capsys.readouterr().out.split())
    assert f"{num_trials} trial" in out
    assert told in out
    assert ("simulated: nothing is started" in out) == bool(num_trials)
    assert not (brain.parent.parent / "run").exists()


@pytest.mark.parametrize(
    ("share", "told", "number"),
    [
        # Of the hours of all four trials in four epochs: a quarter goes to the first one, and half is left for two.
        (0.625, "4 trials, 2 of them to the end, about {limit} hours of training: no more go on, since {limit} are", 2),
        # All train for an epoch, and one for three more: seven of 16 epochs, more than are allowed.
        (0.1, "of training: more than the {limit} that are allowed, since all train for a generation and one goes", 1),
        (1.0, "4 trials, 4 of them to the end, about {limit} hours of training 4 trainings", 4),
    ],
)
def test_a_population_within_a_limit_is_simulated_as_it_would_be_trained(brain, capsys, share, told, number):
    (of_each,) = expected_hours(request_of(brain, RATES, *PBT))
    limit = 4 * of_each * share
    assert main(words(brain, RATES, *PBT, "--simulate", "--max-hours", str(limit))) == 0
    found = capsys.readouterr().out
    assert told.format(limit=f"{limit:.3g}") in " ".join(found.split())
    assert f"{counted(number, 'training')} with preset tiny, simulated" in found


def test_a_forecast_says_when_there_are_no_other_settings(brain, capsys):
    assert main(words(brain, "optimizer: {choice: [nnunet, adamw]}", "--simulate")) == 0
    assert "2 of 4 trials: there are no other settings in" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("one", [("--apply", "x"), ("--down",)])
def test_one_thing_is_done_instead_of_a_sweep(brain, capsys, one):
    before = brain.read_bytes()
    assert main(words(brain, RATES, "--simulate", *one)) == 2
    assert f"{'--apply and --simulate' if one[0] == '--apply' else '--simulate and --down'}: expected one" in (
        capsys.readouterr().err
    )
    assert brain.read_bytes() == before
