"""Trainings in generations: each is a part of a training, and what goes on from another has all of it but its draws."""

from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from played_sweeps import Played, played, request_of, study_with_presets
from tiny_training import CASES, Killed, Run, assert_same_weights, tiny_preset, tiny_setting

from orchestrator.errors import TrainingError
from orchestrator.search.population import Generation
from orchestrator.stages.train import _of_stage
from orchestrator.storage import run_paths
from orchestrator.storage.json_files import write_json
from orchestrator.training.checkpoint import CheckpointStore

FIRST = Generation(number=0, first_epoch=0, until_epoch=2, sources={})
WHOLE = Generation(number=0, first_epoch=0, until_epoch=None, sources={})


def last_from(source: str) -> Generation:
    sources = {f"member{number}": source for number in range(2)}
    return Generation(number=1, first_epoch=2, until_epoch=None, sources=sources)


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    return tiny_setting(tmp_path_factory.mktemp("population"), preset=tiny_preset())


class Member(Run):
    """What a member of a population trains in one generation; `Run.store` is where it leaves that."""

    def __init__(self, folder, setting, name, generation, **changes):
        super().__init__(folder, setting, **{"training_id": name, "seed": int(name[-1]), **changes})
        self.store = self.arguments["checkpoint"] = CheckpointStore(
            self.storage,
            training_id=generation.place(name),
            source=generation.source(name),
            keeps_full_state=generation.until_epoch is not None,
        )
        self.arguments["is_enough"] = lambda dice: generation.ends(
            self.storage, name, epoch=len(dice), value=generation.value_of(dice)
        )

    @property
    def state(self):
        return self.store.load_final().state


def test_a_training_in_generations_is_bit_for_bit_what_it_is_in_one(setting, tmp_path):
    whole = Run(tmp_path / "whole", setting, seed=1).go()
    first = Member(tmp_path, setting, "member1", FIRST).go()
    assert (first.outcome.num_epochs, first.outcome.ended_early) == (2, True)
    last = Member(tmp_path, setting, "member1", last_from("member1")).go()
    assert_same_weights(last.weights, whole.weights)
    assert (last.outcome.num_epochs, last.outcome.ended_early) == (3, False)
    assert last.storage.exists(run_paths.final_checkpoint("member1"))


def test_one_that_goes_on_from_another_has_its_weights_and_optimiser_and_draws_of_its_own(setting, tmp_path):
    donor = Member(tmp_path, setting, "member0", FIRST).go()
    Member(tmp_path, setting, "member1", FIRST).go()
    # As it stands before its first iteration: asked to stop at once.
    copy = Member(tmp_path, setting, "member1", last_from("member0"), stop_reason=lambda: "it is looked at")
    with pytest.raises(Exception, match="it is looked at"):
        copy.go()
    copied, given = copy.store.load_latest(), donor.state
    assert_same_weights(copied["network_weights"], given["network_weights"])
    for number, moments in given["optimizer_state"]["state"].items():
        for name, value in moments.items():
            assert torch.equal(copied["optimizer_state"]["state"][number][name], value), name
    assert copied["current_epoch"] == given["current_epoch"] == 2
    assert copied["num_batches_taken"] == given["num_batches_taken"]
    assert copied["logging"]["mean_fg_dice"] == given["logging"]["mean_fg_dice"]
    assert not torch.equal(copied["random_state"]["torch"], given["random_state"]["torch"])
    # From the same checkpoint, each sees other batches.
    ends = [
        Member(tmp_path / "a", setting, name, FIRST).go() and Member(tmp_path / "a", setting, name, generation).go()
        for name, generation in (("member0", last_from("member0")),)
    ]
    copy = Member(tmp_path, setting, "member1", last_from("member0")).go()
    assert not all(torch.equal(ends[0].weights[name], one) for name, one in copy.weights.items())


def test_one_that_is_killed_amid_a_generation_or_before_it_is_told_ends_with_the_same_weights(setting, tmp_path):
    for name in ("member0", "member1"):
        Member(tmp_path, setting, name, FIRST).go()
    generation = Generation(number=1, first_epoch=2, until_epoch=None, sources={"member1": "member0"})
    whole = Member(tmp_path, setting, "member1", generation).go().weights
    (tmp_path / run_paths.final_checkpoint("member1")).unlink()
    with pytest.raises(Killed):
        Member(tmp_path, setting, "member1", generation, kill_after=1).go()
    assert_same_weights(Member(tmp_path, setting, "member1", generation).go().weights, whole)
    # What the first generation has left is there for others.
    assert Member(tmp_path, setting, "member0", FIRST).go().outcome.num_epochs == 2


def test_the_settings_of_the_generations_are_those_of_a_training_by_their_schedule(setting, tmp_path):
    steps = [{"from_epoch": 0, "initial_learning_rate": 0.01}, {"from_epoch": 2, "initial_learning_rate": 0.002}]
    Member(tmp_path, setting, "member1", FIRST, preset=tiny_preset(initial_learning_rate=0.01)).go()
    preset = tiny_preset().changed_by((("schedule", steps),))
    last = Member(tmp_path, setting, "member1", last_from("member1"), preset=preset).go()
    assert_same_weights(last.weights, Run(tmp_path / "whole", setting, seed=1, preset=preset).go().weights)


def test_how_far_a_generation_is_is_told_by_its_own_epochs(setting, tmp_path):
    report = Run(tmp_path, setting).go().reports[-1]
    for generation, expected in [(None, (2, 3)), (FIRST, (2, 2)), (last_from("member0"), (0, 1))]:
        told = _of_stage(SimpleNamespace(generation=generation), report)
        assert (told.epoch, told.num_epochs) == expected


def test_what_it_goes_on_from_must_be_there_and_of_the_same_cases(setting, tmp_path):
    with pytest.raises(TrainingError, match=r"generation000/checkpoint_final\.ckpt, which is not there"):
        Member(tmp_path, setting, "member1", last_from("member0")).go()
    Member(tmp_path, setting, "member0", FIRST, train_cases=CASES[:2]).go()
    with pytest.raises(TrainingError, match="train_cases"):
        Member(tmp_path, setting, "member1", last_from("member0")).go()


class Fitted(Played):
    """Runs of a sweep whose trainings are fitted to ellipsoids; the score of a case is the patch Dice at the end."""

    def __init__(self, monkeypatch, setting, *, kill_after=None):
        super().__init__(monkeypatch)
        self.setting, self.kill_after, self.num_epochs = setting, kill_after, 0

    def _fit(self, training, storage, *, generation):
        def on_epoch(_):
            self.num_epochs += 1
            if self.num_epochs == self.kill_after:
                raise Killed

        preset = tiny_preset(num_epochs=4, num_iterations_per_epoch=6, num_val_iterations_per_epoch=2)
        member = Member(
            storage.location,
            self.setting,
            training.id,
            generation or WHOLE,
            preset=preset.changed_by(training.model.changes),
            seed=training.facets["trial"],
            on_epoch=on_epoch,
        )
        return member.go().outcome

    def _end_generation(self, training, storage, *, generation, place):
        write_json(storage, place, asdict(self._fit(training, storage, generation=generation)))
        self.trained.append(training.id)

    def _finish(self, training, storage, *, preset, generation):
        outcome = self._fit(training, storage, generation=generation)
        self.score = lambda _: outcome.pseudo_dice
        super()._finish(training, storage, preset=preset, generation=generation)


def test_a_population_that_is_killed_amid_a_training_finds_the_same_and_better_than_a_bad_default(
    setting, tmp_path, monkeypatch
):
    study = study_with_presets(tmp_path)
    space = "initial_learning_rate: {loguniform: [0.0000001, 0.03]}\n"
    words = (study, space, "--stopping", "pbt", "--first-epochs", "1")
    Fitted(monkeypatch, setting)
    whole = played(request_of(*words, "--name", "whole"))
    for epochs in (3, 4, 5):
        Fitted(monkeypatch, setting, kill_after=epochs)
        with pytest.raises(Killed):
            played(request_of(*words, "--name", "killed"))
    Fitted(monkeypatch, setting)
    killed = played(request_of(*words, "--name", "killed"))
    assert [(one.trial, one.score) for one in killed.results] == [(one.trial, one.score) for one in whole.results]
    assert any(one.trial.steps for one in whole.results)
    Fitted(monkeypatch, setting)
    bad = request_of(study, "initial_learning_rate: {choice: [1.0e-7]}\n", "--stopping", "none", "--name", "bad")
    assert whole.best.score > 0.2 + played(bad).best.score
