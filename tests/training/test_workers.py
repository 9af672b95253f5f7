"""Several workers fit one model: what one alone would, to the rounding, and from any place on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet
from test_loader import SETTINGS, assert_same, batches, folder, loader  # noqa: F401 - a fixture
from tiny_training import Killed, Run, assert_same_weights, tiny_preset, tiny_setting
from worker_processes import Ticks, Together, kill_second_of_two, meet_often_in_two_processes

from orchestrator.benchmark.definition import Structure
from orchestrator.training.nnunet.trainers.divided_trainer import DividedTrainer
from orchestrator.training.workers import Worker

PRESET = tiny_preset()


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_setting(tmp_path_factory.mktemp("balls"), preset=PRESET)


@pytest.fixture(scope="module")
def together():
    pair = Together()
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def alone(setting, tmp_path_factory):
    """A training of three epochs by one worker."""
    return Run(tmp_path_factory.mktemp("alone"), setting).go()


@pytest.fixture(scope="module")
def divided(setting, together, tmp_path_factory):
    """The same by two, with what each of them told."""
    place = tmp_path_factory.mktemp("divided")
    return Run(place, setting), together.train(place, setting)


def nnunets_share(monkeypatch, *, batch_size, number, rank, oversample):
    """Size of the part of a batch, and how many samples of it hold foreground, as nnU-Net's own trainer has it."""
    monkeypatch.setattr(nnunet.dist, "get_world_size", lambda: number)
    monkeypatch.setattr(nnunet.dist, "get_rank", lambda: rank)
    trainer = SimpleNamespace(
        is_ddp=True,
        configuration_manager=SimpleNamespace(batch_size=batch_size),
        oversample_foreground_percent=oversample,
    )
    nnunet.nnUNetTrainer._set_batch_size_and_oversample(trainer)
    size, share = trainer.batch_size, trainer.oversample_foreground_percent
    return size, sum(not number < round(size * (1 - share)) for number in range(size))


@pytest.mark.parametrize("oversample", [0.0, 0.33, 0.5, 0.8, 1.0])
def test_workers_share_a_batch_and_its_foreground_as_nnunets_do(monkeypatch, oversample):
    for batch_size in range(1, 10):
        on_foreground = [number >= round(batch_size * (1 - oversample)) for number in range(batch_size)]
        for number in range(1, batch_size + 1):
            found = []
            for rank in range(number):
                size, num_foreground = nnunets_share(
                    monkeypatch, batch_size=batch_size, number=number, rank=rank, oversample=oversample
                )
                first = sum(found)
                found.append(size)
                assert sum(on_foreground[first : first + size]) == num_foreground
            assert sum(found) == batch_size


@pytest.mark.parametrize("parts", [(range(3),), (range(2), range(2, 3)), (range(1), range(1, 2), range(2, 3))])
def test_the_parts_of_all_workers_are_the_batch_of_one(folder, parts):  # noqa: F811
    whole = batches(loader(folder), 4)
    for index, batch in enumerate(whole):
        made = [batches(loader(folder, settings=replace(SETTINGS, own=own)), 4)[index] for own in parts]
        tensors = [torch.cat([one[part] for one in made]) for part in range(len(batch) - 1)]
        assert_same([(*tensors, [key for one in made for key in one[-1]])], [batch])


def test_each_worker_draws_otherwise_and_the_first_as_one_alone():
    seeds = {Worker(rank=rank, number=3).seed(5) for rank in range(3)}
    assert len(seeds) == 3
    assert Worker().seed(5) == Worker(number=3).seed(5) == 5
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_two_workers_learn_what_one_does(alone, divided):
    run, (first, second) = divided
    assert [report.epoch for report in first.reports] == [0, 1, 2]
    for own, other, expected in zip(first.reports, second.reports, alone.reports, strict=True):
        assert own.train_loss == other.train_loss == pytest.approx(expected.train_loss, rel=1e-2)
        assert own.val_loss == other.val_loss == pytest.approx(expected.val_loss, rel=1e-2)
        assert own.pseudo_dice == other.pseudo_dice == pytest.approx(expected.pseudo_dice, abs=0.02)
    # Before any weight has moved apart, to the rounding.
    assert first.reports[0].train_loss == pytest.approx(alone.reports[0].train_loss, rel=1e-4)
    assert first.outcome.checkpoint_sha256 == second.outcome.checkpoint_sha256 == run.store.load_final().sha256


@pytest.mark.long
@pytest.mark.timeout(2700)
def test_two_workers_learn_as_well_as_one_whatever_the_seed(setting, together, tmp_path):
    preset = replace(
        PRESET, num_epochs=15, num_iterations_per_epoch=10, num_val_iterations_per_epoch=4, checkpoint_every_s=1e9
    )
    for seed in range(1, 6):
        one = Run(tmp_path / f"one{seed}", setting, preset=preset, seed=seed).go()
        two, _ = together.train(tmp_path / f"two{seed}", setting, preset=preset, seed=seed)
        learned = [np.mean([report.pseudo_dice for report in told.reports[-5:]]) for told in (one, two)]
        assert learned[0] > 0.9
        assert learned[1] == pytest.approx(learned[0], abs=0.01), seed


def test_the_model_of_two_workers_is_a_model_like_any_other(alone, divided):
    run, _ = divided
    assert run.weights.keys() == alone.weights.keys()
    (environment,) = divided[1][0].outcome.environments
    assert environment["workers"] == "2"
    assert alone.outcome.environments[0]["workers"] == "1"
    again = Run(run.storage.location, (run.plan, run.arguments["patches"])).go()
    assert again.outcome == divided[1][0].outcome


@pytest.mark.parametrize("stop_after", [0, 2, 4])
def test_who_is_asked_stops_all_and_they_go_on_bit_for_bit(divided, setting, together, tmp_path, stop_after):
    stopped = together.train(tmp_path, setting, stop_second_after=stop_after)
    epoch, iteration = divmod(stop_after, 3)
    for told in stopped:
        assert f"stopped at epoch {epoch}, after {iteration} of its 3 iterations, since somebody asks" in told.error
    first, _ = together.train(tmp_path, setting)
    assert any(f"resumed at epoch {epoch} of 3, after {iteration} of its 3" in line for line in first.lines)
    assert_same_weights(Run(tmp_path, setting).weights, divided[0].weights)
    assert first.outcome.train_loss == divided[1][0].outcome.train_loss


def test_one_worker_goes_on_where_two_have_stopped(divided, setting, together, tmp_path):
    together.train(tmp_path, setting, stop_second_after=4)
    run = Run(tmp_path, setting).go()
    assert "it goes on with 1 instead of 2 workers" in run.text
    assert [environment["workers"] for environment in run.outcome.environments] == ["2", "1"]
    assert run.outcome.train_loss == pytest.approx(divided[1][0].outcome.train_loss, rel=1e-2)


def test_two_workers_go_on_where_one_has_stopped(alone, setting, together, tmp_path):
    with pytest.raises(Killed):
        Run(tmp_path, setting, kill_after=1).go()
    first, _ = together.train(tmp_path, setting)
    assert any("it goes on with 2 instead of 1 workers" in line for line in first.lines)
    assert [environment["workers"] for environment in first.outcome.environments] == ["1", "2"]
    assert first.outcome.train_loss == pytest.approx(alone.outcome.train_loss, rel=1e-2)


def test_the_first_of_two_looks_at_whole_cases_and_no_weight_is_another(setting, together, tmp_path):
    """Also where they have stopped in between: the looks go on as they would have."""
    structures = (Structure(name="ball", label=1, tolerance_mm=5.0),)
    looking = replace(PRESET, curve_every=1, curve_share=1.0, num_iterations_per_epoch=20)
    place, same = tmp_path / "looking", {"structures": structures, "clock": Ticks()}
    together.train(place, setting, stop_second_after=25, preset=looking, **same)
    first, second = together.train(place, setting, preset=looking, **same)
    plain = replace(looking, curve_every=None)
    together.train(tmp_path / "plain", setting, preset=plain)
    assert_same_weights(Run(place, setting).weights, Run(tmp_path / "plain", setting).weights)
    looks = [[line for line in told.lines if line.startswith("Whole cases: DSC")] for told in (first, second)]
    assert [len(lines) for lines in looks] == [2, 0]


def test_nnunets_own_pipeline_is_divided_too(setting, together, tmp_path):
    preset = replace(PRESET, augmentation="nnunet", num_epochs=1)
    first, second = together.train(tmp_path, setting, preset=preset)
    assert any("nnU-Net's own pipeline" in line for line in first.lines)
    assert np.isfinite(first.outcome.train_loss)
    assert first.outcome.train_loss == second.outcome.train_loss


def test_where_a_worker_is_killed_the_other_ends_and_both_go_on_from_the_last_checkpoint(
    divided, setting, together, tmp_path
):
    run, told = Run(tmp_path / "run", setting), tmp_path / "told"
    assert kill_second_of_two(tmp_path / "run", setting, told) == [0, -9]
    assert told.read_text() == "worker 0 of 2 hears another one no more"
    assert run.store.load_latest() is not None
    together.train(tmp_path / "run", setting)
    assert_same_weights(run.weights, divided[0].weights)


def test_the_only_worker_has_no_process_group(alone):
    assert not torch.distributed.is_initialized()
    assert DividedTrainer._worker == Worker()


def test_workers_part_also_while_their_last_call_is_under_way(tmp_path):
    assert meet_often_in_two_processes(tmp_path, 8) == [0, 0]
