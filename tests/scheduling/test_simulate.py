"""The simulator plays the real schedule: near the bound, repeatable, and with what interruptions and money cost."""

import datetime
from pathlib import Path

import pytest
import yaml
from named_stages import Name

from bench.schedule import FLEETS, measure, stages_of
from orchestrator.benchmark.loading import load_study
from orchestrator.benchmark.presets import find_preset
from orchestrator.cli.run import main
from orchestrator.cli.run.simulate import utilisation_chart
from orchestrator.cli.text import usd_text
from orchestrator.cluster.gpu_kinds import GpuKind
from orchestrator.cluster.kinds.local import LocalCluster
from orchestrator.cluster.node_pool import NodePool, Resources, Waiting
from orchestrator.cluster.prices import load_prices
from orchestrator.cluster.registry import load_cluster
from orchestrator.errors import ConfigError
from orchestrator.scheduling.resources import ResourceRequest, node_of
from orchestrator.scheduling.scheduler import Schedule
from orchestrator.scheduling.training_need import Needs
from orchestrator.simulation.engine import Conditions, Simulation, Trace
from orchestrator.simulation.fleet import Fleet, fleet_of
from orchestrator.simulation.forecast import Forecast, Limits, best, cost_usd
from orchestrator.simulation.queue import Queue
from orchestrator.workflow.graph import Stage
from orchestrator.workflow.keys import StageKind

ROOT = Path(__file__).resolve().parents[2]
HOUR_S = 3600.0
NEED = ResourceRequest(cpus=1, gpus=1)


def machines(number: int, *, speed: float = 1.0, **values: float) -> NodePool:
    gpu = GpuKind(name=f"x{speed}", speed=speed, memory_gib=float("inf"))
    return NodePool(name="gpu", cpus=1, gpus=1, gpu=gpu, max_nodes=number, **values)


def play(hours: list[float], *pools: NodePool, **conditions: float) -> Trace:
    graph = {
        f"t{i}": Stage(key=Name(f"t{i}", StageKind.TRAIN), dependencies=(), products=(), expected_s=h * HOUR_S)
        for i, h in enumerate(hours)
    }
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pool) for pool in pools], needs=Needs(one=NEED))
    return Simulation(schedule=schedule, pools=pools, true_s={}, conditions=Conditions(**conditions)).run()


@pytest.fixture(scope="module")
def core_graph():
    preset = find_preset("paper")
    trainings = load_study().trainings(matrix="core", preset=preset)
    return stages_of(trainings, expected_s=preset.expected_training_s)


@pytest.mark.parametrize(("fleet", "number"), [("equal", 8), ("equal", 32), ("equal", 44), ("A100 + A10G", 24)])
def test_the_45_trainings_end_within_5_percent_of_the_bound(core_graph, fleet, number):
    true_s = {name: stage.expected_s for name, stage in core_graph.items()}
    assert measure(core_graph, true_s, speeds=FLEETS[fleet], number=number).ratio <= 1.05


def test_the_course_of_one_training_is_its_start_and_its_time():
    trace = play([2.0], machines(1, start_s=300), start_training_s=60)
    assert trace.makespan_s == 300 + 60 + 2 * HOUR_S
    assert trace.gpu_hours == pytest.approx(2 + 60 / HOUR_S)


def test_a_faster_gpu_shortens_what_the_network_of_a_prediction_does_and_nothing_else():
    """40 s of a core and 60 s of a GPU of speed 1 are 70 s with one of speed 2."""
    stage = Stage(
        key=Name("p", StageKind.PREDICT), dependencies=(), products=(), expected_s=100.0, expected_core_s=40.0
    )
    fast = machines(1, speed=2.0)
    schedule = Schedule({"p": stage}, done=(), nodes=(), to_come=[node_of(fast)], needs=Needs(one=NEED))
    assert Simulation(schedule=schedule, pools=(fast,), true_s={}).run().makespan_s == 70.0


def test_interruptions_cost_restarts_and_without_warning_the_work_since_a_checkpoint():
    quiet = play([5.0], machines(1))
    warned, unwarned = (
        play([5.0], machines(1, interruptions_per_hour=1.0, start_s=60), seed=1, is_warned=is_warned)
        for is_warned in (True, False)
    )
    assert warned.num_interruptions > 0
    assert quiet.makespan_s < warned.makespan_s < unwarned.makespan_s
    most_lost_s = unwarned.num_interruptions * (600 + 60 + 90)
    assert unwarned.makespan_s <= quiet.makespan_s + 60 + most_lost_s


def test_the_same_seed_gives_the_same_course():
    traces = [play([3.0] * 5, machines(2, interruptions_per_hour=0.3), seed=seed) for seed in (4, 4, 5)]
    assert traces[0] == traces[1]
    assert traces[0].makespan_s != traces[2].makespan_s


def growing(hours: list[float], *pools: NodePool, cpu_stages: int = 0) -> Trace:
    graph = {
        f"p{i}": Stage(key=Name(f"p{i}", StageKind.PREPROCESS), dependencies=(), products=(), expected_s=60.0)
        for i in range(cpu_stages)
    }
    graph |= {
        f"t{i}": Stage(
            key=Name(f"t{i}", StageKind.TRAIN), dependencies=tuple(graph), products=(), expected_s=h * HOUR_S
        )
        for i, h in enumerate(hours)
    }
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pool) for pool in pools], needs=Needs(one=NEED))
    conditions = Conditions(start_training_s=0)
    return Simulation(schedule=schedule, pools=pools, true_s={}, conditions=conditions, is_growing=True).run()


def test_a_growing_cluster_has_the_machines_that_something_waits_for_and_no_other():
    """Two trainings: two of five GPU machines. They come 300 s after the patches, whose machine takes 300 s as well."""
    cpu = NodePool(name="cpu", cpus=4, max_nodes=3, start_s=300)
    trace = growing([1.0, 2.0], machines(5, start_s=300), cpu, cpu_stages=4)
    assert trace.makespan_s == pytest.approx(300 + 60 + 300 + 2 * HOUR_S, abs=20)
    assert sorted(lifetime.pool for lifetime in trace.lifetimes) == ["cpu", "gpu", "gpu"]


def test_a_machine_that_is_idle_for_ten_minutes_is_given_back_and_asked_for_again():
    trace = growing([3.0, 1.0, 0.5], machines(2), machines(0))
    assert trace.makespan_s == pytest.approx(3 * HOUR_S, abs=20)
    first, second = sorted(lifetime.end_s for lifetime in trace.lifetimes)
    assert first == pytest.approx(1.5 * HOUR_S + 600, abs=20)
    assert second == trace.makespan_s


def test_a_machine_that_is_taken_from_a_growing_cluster_is_asked_for_anew():
    trace = growing([5.0], machines(1, interruptions_per_hour=1.0, start_s=60))
    assert trace.num_interruptions > 0
    assert len(trace.lifetimes) == trace.num_interruptions + 1


def queued(pool: NodePool, hours: list[float], *, seed: int = 0, growing: bool = True) -> Trace:
    graph = {
        f"t{i}": Stage(key=Name(f"t{i}", StageKind.TRAIN), dependencies=(), products=(), expected_s=h * HOUR_S)
        for i, h in enumerate(hours)
    }
    schedule = Schedule(graph, done=(), nodes=(), to_come=[node_of(pool)], needs=Needs(one=NEED))
    conditions = Conditions(start_training_s=0, seed=seed)
    return Simulation(
        schedule=schedule, pools=(pool,), true_s={}, conditions=conditions, is_growing=growing, idle_s=60
    ).run()


def test_a_queue_without_spread_delays_by_its_median_and_nothing_is_held_meanwhile():
    trace = queued(machines(1, waiting=Waiting(median_s=1800, ninetieth_s=1800)), [2.0])
    assert trace.makespan_s == pytest.approx(1800 + 2 * HOUR_S)
    assert trace.held_gpu_hours == pytest.approx(2.0)


def test_half_of_the_waits_are_below_the_median_and_nine_of_ten_below_the_ninetieth():
    pool = machines(1, waiting=Waiting(median_s=600, ninetieth_s=6000))
    queue = Queue(1)
    waits = sorted(queue.one_s(pool) for _ in range(4000))
    assert waits[2000] == pytest.approx(600, rel=0.1)
    assert waits[3600] == pytest.approx(6000, rel=0.15)


def test_a_time_limit_ends_a_machine_whose_training_goes_on_in_the_next_one():
    """Five hours in pieces of two: three jobs, two more waits of half an hour, no work lost."""
    pool = machines(1, waiting=Waiting(median_s=1800, ninetieth_s=1800), lasts_s=2 * HOUR_S)
    trace = queued(pool, [5.0])
    assert trace.makespan_s == pytest.approx(3 * 1800 + 5 * HOUR_S, abs=30)
    assert (len(trace.lifetimes), trace.num_interruptions) == (3, 0)
    assert trace.gpu_hours == pytest.approx(5.0)


def test_machines_of_an_allocation_wait_for_the_last_one_and_are_held_to_the_end():
    pool = machines(2, waiting=Waiting(median_s=1800, ninetieth_s=1800), come_together=True)
    trace = queued(pool, [3.0, 1.0], growing=False)
    assert trace.makespan_s == pytest.approx(1800 + 3 * HOUR_S)
    assert trace.held_gpu_hours == pytest.approx(2 * 3.0)
    assert queued(machines(2, waiting=pool.waiting), [3.0, 1.0]).held_gpu_hours == pytest.approx(3 + 1 + 1 / 60)


def test_single_jobs_begin_in_the_gaps_before_an_allocation_does():
    waiting = Waiting(median_s=HOUR_S, ninetieth_s=10 * HOUR_S)
    for seed in range(5):
        together = queued(machines(8, waiting=waiting, come_together=True), [1.0] * 8, seed=seed, growing=False)
        single = queued(machines(8, waiting=waiting), [1.0] * 8, seed=seed)
        assert single.makespan_s <= together.makespan_s
        assert single.occupations[0].start_s < min(one.start_s for one in together.occupations)


def test_a_slurm_file_is_simulated_in_both_forms(tmp_path, capsys):
    pool = {"number": 4, "cpus": 8, "gpus": 1, "gpu": "A100", "time_limit_minutes": 240}
    content = {"kind": "slurm", "pools": {"gpu": pool | {"waiting": {"median_minutes": 30, "ninetieth_minutes": 300}}}}
    path = tmp_path / "slurm.yaml"
    for form, other in (("workers", "the same as one allocation of 4 gpu:"), ("allocation", "the same as single jobs")):
        path.write_text(yaml.safe_dump(content | {"form": form}))
        assert main(["--preset", "paper", "--only", "T1-lung-fold*", "--simulate", str(path)]) == 0
        printed = capsys.readouterr().out
        assert other in printed
        assert printed.count("GPU hours: ") == 2


def test_a_time_limit_in_which_no_training_gets_on_is_refused(tmp_path):
    path = tmp_path / "slurm.yaml"
    pool = {"number": 1, "cpus": 8, "gpus": 1, "time_limit_minutes": 5}
    path.write_text(yaml.safe_dump({"kind": "slurm", "pools": {"gpu": pool}}))
    assert main(["--preset", "paper", "--only", "T1-lung-fold0", "--simulate", str(path)]) == 2


def test_machines_are_paid_from_their_order_until_they_are_idle_and_the_head_to_the_end():
    """One of two machines has work for 2 h; the other is given back after ten idle minutes."""
    pool = machines(2, usd_per_hour=6.0)
    trace = play([2.0], pool, start_training_s=0)
    cost = cost_usd(trace, Fleet(pools=(pool,), head_usd_per_hour=1.0))
    assert cost == pytest.approx(2 * 6.0 + 6.0 / 6 + 2 * 1.0)


def test_the_chart_shows_what_is_taken():
    pool = machines(2)
    fleet = Fleet(pools=(pool,), head_usd_per_hour=None)
    _, line = utilisation_chart(play([2.0, 1.0], pool, start_training_s=0), fleet, width=4)
    assert line.split() == ["gpu", "██▄▄", "75%", "of", "2", "GPUs"]


def forecast_of(*, hours: float, usd: float) -> Forecast:
    fleet = Fleet(pools=(), head_usd_per_hour=0.0)
    trace = Trace(makespan_s=0, occupations=(), lifetimes=(), num_requests_to_stop=0, num_interruptions=0)
    return Forecast(
        fleet=fleet,
        makespan_s=hours * HOUR_S,
        early_s=hours * HOUR_S,
        late_s=hours * HOUR_S,
        gpu_hours=0,
        held_gpu_hours=0,
        usd=usd,
        num_interruptions=0,
        num_requests_to_stop=0,
        trace=trace,
    )


def test_the_choice_is_the_cheapest_in_time_or_the_fastest_in_budget():
    slow, medium, fast = forecast_of(hours=50, usd=100), forecast_of(hours=20, usd=150), forecast_of(hours=10, usd=300)
    found = [fast, medium, slow]
    assert best(found, Limits(deadline_hours=30)) is medium
    assert best(found, Limits(max_usd=200)) is medium
    assert best(found, Limits(deadline_hours=15, max_usd=200)) is None
    assert best(found, Limits(deadline_hours=15)) is fast


def test_a_cluster_file_without_numbers_is_this_machine():
    fleet = fleet_of(load_cluster(ROOT / "clusters/local.yaml"), prices=None)
    assert fleet.title == "1 this machine"
    given = LocalCluster(num_cpus=3, num_gpus=2)
    assert fleet_of(given, prices=None).nodes[0].offered == Resources(cpus=3, gpus=2)


BAD_PRICES = {
    "no date": ("start_minutes: 5\nusd_per_hour: {}\n", "key 'date' is missing"),
    "unknown key": (
        "date: 2026-01-01\nstart_minutes: 5\nusd_per_hour: {g5.2xlarge: {on_demand: 1.2, spott: 1}}\n",
        "did you mean 'spot'?",
    ),
    "a text": (
        "date: 2026-01-01\nstart_minutes: 5\nusd_per_hour: {g5.2xlarge: {on_demand: cheap}}\n",
        "expected number",
    ),
    "below zero": ("date: 2026-01-01\nstart_minutes: 5\nusd_per_hour: {a: {on_demand: -1}}\n", "expected at least 0"),
}


@pytest.mark.parametrize("kind", BAD_PRICES)
def test_a_price_list_is_read_strictly(kind, tmp_path):
    text, message = BAD_PRICES[kind]
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_prices(path)


def test_a_machine_without_a_price_is_named(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text("date: 2026-01-01\nstart_minutes: 5\nusd_per_hour: {m7i.xlarge: {on_demand: 1}}\n")
    prices = load_prices(path)
    assert prices.date == datetime.date(2026, 1, 1)
    with pytest.raises(ConfigError, match=r"no price of g6e\.2xlarge"):
        fleet_of(load_cluster(ROOT / "clusters/aws.yaml"), prices=prices)


def test_simulate_prints_time_cost_and_a_choice_and_starts_nothing(capsys, tmp_path):
    arguments = ["--simulate", str(ROOT / "clusters/aws.yaml"), "--preset", "paper", "--only", "T1-lung-fold*"]
    assert main([*arguments, "--deadline", "40", "--output", str(tmp_path / "run")]) == 0
    printed = capsys.readouterr().out
    assert "5 trainings with preset paper, simulated: nothing is started." in printed
    assert "USD with the prices of 2" in printed
    assert "the choice within the limits (*):" in printed
    assert not (tmp_path / "run").exists()
    assert main([*arguments, "--deadline", "1"]) == 1
    assert "none of these clusters keeps the limits" in capsys.readouterr().out


def test_simulate_says_what_it_plays_before_the_minutes_that_it_takes(capsys, monkeypatch):
    def play(*_arguments, **_options):
        assert capsys.readouterr().out == "1 training with preset paper, simulated: nothing is started.\n"
        raise KeyboardInterrupt

    monkeypatch.setattr("orchestrator.cli.run.simulate.simulate_run", play)
    asked = ["--simulate", str(ROOT / "clusters/aws.yaml"), "--preset", "paper", "--only", "T1-lung-fold0"]
    assert main(asked) == 130


def test_cents_are_shown_below_ten_dollars():
    assert [usd_text(amount) for amount in (0.0, 0.066, 9.994, 9.996, 412.4)] == ["0.00", "0.07", "9.99", "10", "412"]
