"""Hours of stages, GPUs and machines, worked out by hand."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.report.scores import all_drawn_rows
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import PRESETS
from orchestrator.benchmark.study_file import GapEntry
from orchestrator.benchmark.tables import load_tables
from orchestrator.driver.results.cost import cost_of
from orchestrator.report.content import make_page
from orchestrator.report.reported import Reported
from orchestrator.report.scores_frame import scores_frame
from orchestrator.report.texts.rendering import latex_tables, to_html, to_markdown
from orchestrator.results.store import to_table
from orchestrator.storage.memory import MemoryStorage
from orchestrator.usage import Cost, usage_of

STUDY = load_study()
TRAININGS = STUDY.trainings(only=("T2-infection-msd",), preset=PRESETS["paper"])
AWS = Path(__file__).parents[2] / "clusters" / "aws.yaml"
PRICES = Path(__file__).parents[2] / "clusters" / "prices.yaml"
GPU = {"gpu_kind": "L40S", "gpus": 0.5}


def at(hour: float, kind: str, **fields: object) -> dict[str, object]:
    minutes = round(60 * hour)
    return {"time": f"2026-01-01T{minutes // 60:02}:{minutes % 60:02}:00+00:00", "kind": kind, **fields}


def started(hour: float, stage: str, **fields: object) -> dict[str, object]:
    return at(hour, "stage_started", stage=stage, stage_kind=stage.split(maxsplit=1)[0], attempt=1, **fields)


def ended(hour: float, stage: str, *, kind: str = "stage_finished") -> dict[str, object]:
    return at(hour, kind, stage=stage, stage_kind=stage.split(maxsplit=1)[0], error="", final=False, elapsed_s=0.0)


EVENTS = [
    at(1, "run_started", trainings=[]),
    at(1, "machines_seen", machines={"busy": {"8 CPUs and 1 GPUs": 2}, "idle": {"4 CPUs": 1}}, gpus=2.0),
    started(1, "plan a"),
    ended(1.5, "plan a"),
    started(2, "train a", **GPU),
    started(2, "train b", **GPU),
    ended(4, "train a", kind="stage_failed"),
    at(5, "machines_seen", machines={"busy": {"8 CPUs and 1 GPUs": 1}}, gpus=1.0),
    started(5, "train a", **GPU),
    # The driver is killed after six; the next one begins at ten.
    ended(6, "train b"),
    at(10, "run_started", trainings=[]),
    started(10, "train a", **GPU),
    ended(12, "train a"),
    at(13, "run_finished", trainings_done=2, stages_failed=0, elapsed_s=0.0),
]


def test_hours_are_added_up_by_hand():
    usage = usage_of(EVENTS)
    # One to six, and ten to thirteen.
    assert usage.elapsed_hours == pytest.approx(5 + 3)
    plan, train = usage.stages
    assert (plan.kind, plan.num_attempts, plan.hours, plan.gpu_hours) == ("plan", 1, 0.5, 0)
    # a: two to four, five to six (cut off), ten to twelve; b: two to six.
    assert (train.num_attempts, train.hours, train.gpu_hours) == (4, 2 + 1 + 2 + 4, 4.5)
    assert usage.gpu_hours == {"L40S": 4.5}
    # Two GPUs from one to five, one from five to six; the second driver saw none.
    assert usage.held_gpu_hours == pytest.approx(2 * 4 + 1)
    assert usage.gpu_share == pytest.approx(4.5 / 9)
    small, large = usage.machines
    assert (small.size, small.hours, small.busy_hours, small.share) == ("4 CPUs", 4, 0, 0)
    assert (large.size, large.hours, large.busy_hours) == ("8 CPUs and 1 GPUs", 9, 9)


def test_what_a_killed_driver_left_open_lasted_until_it_told_something_last():
    epochs = [at(1 + hour, "training_epoch", training="a", epoch=hour, host="x") for hour in range(1, 6)]
    events = [
        at(1, "run_started", trainings=[]),
        at(1, "machines_seen", machines={"busy": {"8 CPUs and 1 GPUs": 1}}, gpus=1.0),
        started(1, "train a", **GPU),
        *epochs,
        # The driver is killed after six, the next one after twelve.
        at(10, "run_started", trainings=[]),
        started(10, "train a", **GPU),
        at(11, "stage_asked_to_stop", stage="train a", stage_kind="train"),
        at(12, "training_epoch", training="a", epoch=6, host="x"),
        # Read last, and written whenever: by a training that had long ended, or that outlived its driver.
        at(20, "attempt_ended", training="a", error="", is_preemption=False),
        at(2, "checkpoint_saved", training="b", host="y"),
    ]
    usage = usage_of(events)
    assert usage.elapsed_hours == pytest.approx(5 + 2)
    assert [stage.hours for stage in usage.stages] == [5 + 2]
    assert usage.gpu_hours == {"L40S": 3.5}
    assert usage.held_gpu_hours == pytest.approx(5)


def test_nothing_that_ran_is_no_usage():
    assert usage_of([]) is None
    assert usage_of([at(1, "run_started", trainings=[])]) is None
    # Events of a bundle: trainings alone, without calls, machines and GPUs.
    usage = usage_of([started(1, "train a"), ended(3, "train a")])
    assert (usage.elapsed_hours, usage.gpu_hours, usage.machines, usage.gpu_share) == (2, {}, (), None)


def test_the_cost_is_that_of_the_price_list():
    lines = "".join(json.dumps(event) + "\n" for event in EVENTS)
    storage = MemoryStorage("x", files={"events/20260101T010000.000000-00000.jsonl": lines.encode()})
    cost = cost_of(storage, cluster=AWS, prices=PRICES)
    # 4.5 hours of an L40S, of which a spot machine costs 1.00 and one on demand 2.24 an hour.
    assert (cost.low_usd, cost.high_usd) == (pytest.approx(4.5), pytest.approx(4.5 * 2.24))
    assert cost.prices_date == "2025-06-01"
    assert cost_of(storage, cluster=AWS.with_name("local.yaml"), prices=PRICES) is None


@pytest.fixture(scope="module")
def page():
    rows = [row for some in all_drawn_rows(TRAININGS, study=STUDY).values() for row in some]
    gaps = (GapEntry(title="What is <lost>?", baseline="val", against="test"),)
    layout = replace(load_tables(STUDY), gaps=gaps)
    about = Reported(study=STUDY, trainings=TRAININGS, table=to_table(rows), layout=layout)
    return make_page(about, scores_frame(about), location="x", failures={}, events=EVENTS)


def test_page_markdown_and_latex_say_what_was_taken(page):
    texts = re.sub(r"<[^>]+>", " ", to_html(page)), to_markdown(page)
    for text in (" ".join(text.split()) for text in texts):
        assert "8.00 hours in all calls of the run" in text
        assert "GPU hours: 4.50 of L40S. Of the 9.00 hours in which machines held GPUs, 50.0 % were taken." in text
        assert "Cost: not known; no price list was given for these machines. Energy was not measured." in text
    assert "| train | 4 | 9.00 | 4.50 |" in texts[1]
    assert "| 8 CPUs and 1 GPUs | 9.00 | 9.00 | 100.0 |" in texts[1]
    assert r"train & 4 & 9.00 & 4.50 \\" in latex_tables(page)
    assert page.timeline is not None
    assert to_html(page).count("<figure>") == len(page.figures) + 1 + sum(bool(a.differences) for a in page.answers)


def test_costs_are_said_with_their_date(page):
    priced = replace(page, cost=Cost(low_usd=4.5, high_usd=10.08, prices_date="2025-06-01"))
    assert "Cost of these GPU hours: 4.50 to 10.08 USD with the prices of 2025-06-01" in to_html(priced)
    without = replace(page, usage=replace(page.usage, gpu_hours={}))
    assert "No GPU was used; what the processors cost is not known." in to_html(without)


def test_gaps_and_kinds_of_cases_are_in_markdown_and_latex(page):
    text, latex = to_markdown(page), latex_tables(page)
    assert "## What is &lt;lost>?" in text
    assert page.gaps
    for gap in page.gaps[0].gaps:
        assert f"| {gap.group} | {gap.structure} | {gap.metric.upper()} | {100 * gap.baseline_mean:.1f} |" in text
        assert f"{gap.group} & {gap.structure} & {gap.metric.upper()} & {100 * gap.baseline_mean:.1f} &" in latex
    for one in page.parts:
        assert f"## {one.title}" in text
        assert rf"\caption{{{one.title}. Mean" in latex
