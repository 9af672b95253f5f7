"""Sweeps whose trials are played: what a training scores and takes follows from its settings, and nothing is fitted."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from test_results import row

from orchestrator.cli.sweep import _request, build_parser
from orchestrator.driver.run import RunOutcome
from orchestrator.progress import NoListener
from orchestrator.results.store import ResultsStore
from orchestrator.shipped import shipped_file
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.storage.json_files import write_json
from orchestrator.sweeps.request import SweepRequest
from orchestrator.sweeps.sweep import SweepOutcome, sweep

PRESETS = """
presets:
  tiny: {like: smoke, num_epochs: 4, num_iterations_per_epoch: 4, num_val_iterations_per_epoch: 1, cases: {train: 4}}
  less: {like: tiny, num_epochs: 1}
"""


def study_with_presets(folder: Path) -> Path:
    """Return the file of a copy of the shipped study of brain tumours, with PRESETS."""
    path = shutil.copytree(shipped_file("splits", "brain_mri"), folder / "brain") / "study.yaml"
    path.write_text(path.read_text(encoding="utf-8") + PRESETS, encoding="utf-8")
    return path


def words(study: Path, space: str, *others: str, name: str = "lr") -> list[str]:
    """Return the words of a command; `others` stand behind what they are otherwise."""
    path = study.parent / f"{name}.yaml"
    path.write_text(space, encoding="utf-8")
    own = ["--study", str(study), "--only", "tumour-fold0", "--space", str(path), "--preset", "tiny"]
    return [*own, "--trials", "4", "--output", str(study.parent.parent / "run"), *others]


def request_of(study: Path, space: str, *others: str, name: str = "lr") -> SweepRequest:
    return _request(build_parser().parse_args(words(study, space, *others, name=name)))


def played(request: SweepRequest) -> SweepOutcome:
    return sweep(request, connect=None, listener=NoListener())


class Played:
    """Runs of trials: what is not done yet is committed, or as much as goes."""

    def __init__(
        self,
        monkeypatch,
        *,
        score: Callable[..., float] = lambda training: 0.5,
        hours: Callable[..., float] = lambda training: 1.0,
        most: int = 10**6,
        dice: Callable[..., float | None] = lambda training, generation: 0.5,
    ) -> None:
        monkeypatch.setattr("orchestrator.sweeps.sweep.run", self.run)
        monkeypatch.setattr("orchestrator.sweeps.population.run", self.run)
        monkeypatch.setattr("orchestrator.sweeps.sweep.report_now", lambda *_: None)
        self.score, self.hours, self.most, self.dice = score, hours, most, dice
        self.trained: list[str] = []
        self.num_at_once: list[int] = []
        """Trainings of each call."""

    def run(self, request, *, connect, listener) -> RunOutcome:
        storage, before, generation = open_storage(request.output), len(self.trained), request.generation
        is_part = generation is not None and generation.until_epoch is not None
        for training in request.trainings:
            place = run_paths.training_record(generation.place(training.id) if is_part else training.id)
            if storage.exists(place):
                continue
            if len(self.trained) == self.most:
                raise KeyboardInterrupt
            if is_part:
                self._end_generation(training, storage, generation=generation, place=place)
            else:
                preset = request.preset.changed_by(training.model.changes)
                self._finish(training, storage, preset=preset, generation=generation)
        self.num_at_once.append(len(self.trained) - before)
        return RunOutcome(
            num_done=0,
            failures={},
            lost_trainings=(),
            unpredicted={},
            tables=(),
            report="",
            elapsed_s=0.0,
        )

    def _end_generation(self, training, storage, *, generation, place) -> None:
        dice = self.dice(training, generation)
        self.trained.append(training.id)
        if dice is not None:
            assert generation.ends(storage, training.id, epoch=generation.until_epoch, value=dice)
            write_json(storage, place, {"num_epochs": generation.until_epoch, "elapsed_s": 1.0})

    def _finish(self, training, storage, *, preset, generation=None) -> None:
        scored = replace(
            row(self.score(training), 0.5, case=training.val[0].name, fold=training.fold),
            training_id=training.id,
            group=training.group,
            facets=training.facets,
        )
        record = {"num_epochs": preset.num_epochs, "elapsed_s": 3600 * self.hours(training)}
        write_json(storage, f"trainings/{training.id}/training.json", record)
        assert ResultsStore(storage).commit(training.id, [scored])
        self.trained.append(training.id)
