"""A data set of bright ellipsoids and a preset of seconds, for tests that train."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import Preset
from orchestrator.patches.writer import write_patches
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore
from orchestrator.training.nnunet.planning import fingerprint_case, make_plan
from orchestrator.training.nnunet.preprocessing import preprocess_case
from orchestrator.training.reports import TrainingListener
from orchestrator.training.trainer import TrainingSettings, train

BALL = LabelSet(name="infection", structures=(Structure(name="infection", label=1, tolerance_mm=3.0),))
CASES = ("balls--case_0", "balls--case_1", "balls--case_2", "balls--case_3")
SPACING_XYZ, ORIGIN_XYZ = (6.0, 6.5, 7.0), (-120.0, 30.0, 7.5)


def tiny_preset(**changes):
    return Preset(
        **{
            "name": "tiny",
            "num_epochs": 3,
            "num_iterations_per_epoch": 3,
            "num_val_iterations_per_epoch": 1,
            "checkpoint_every_s": 0.0,
            "expected_s_per_iteration": 0.1,
            "optimizer": "adamw",
            "initial_learning_rate": 5e-3,
            "mirror_axes": (),
            "mirror_at_prediction": False,
            "base_num_features": 4,
            "max_num_features": 8,
            "max_patch_voxels": 16 * 16 * 16,
            **changes,
        }
    )


def write_ball(folder, index, *, shape=(24, 32, 36)):
    """An ellipsoid of 400 HU in noise around -600 HU, off centre by the index."""
    random = np.random.default_rng(index)
    z, y, x = np.ogrid[tuple(slice(0, size) for size in shape)]
    ball = ((z - 12) / 6) ** 2 + ((y - 14 - index) / 8) ** 2 + ((x - 15 - index) / 8) ** 2 < 1
    image = np.where(ball, 400, -600) + random.integers(-50, 50, shape)
    paths = []
    for name, array in (("image", image.astype(np.int16)), ("labels", ball.astype(np.uint8))):
        volume = sitk.GetImageFromArray(array)
        volume.SetSpacing(SPACING_XYZ)
        volume.SetOrigin(ORIGIN_XYZ)
        # Turned by 90 degrees about z, as no default would have it.
        volume.SetDirection((0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        paths.append(Path(folder) / f"case_{index}_{name}.nii.gz")
        sitk.WriteImage(volume, str(paths[-1]))
    return tuple(paths)


def tiny_plan(files, *, preset, configuration="3d_fullres", label_set=BALL, **others):
    fingerprints = [fingerprint_case([image], labels) for image, labels in files]
    return make_plan(
        fingerprints,
        label_set=label_set,
        configuration=configuration,
        preset=preset,
        donor=None,
        name="balls",
        **others,
    )


def write_all_patches(folder, files, plan):
    folder.mkdir()
    for name, (image, labels) in zip(CASES, files, strict=True):
        case = preprocess_case([image], labels, plan)
        write_patches(folder / f"{name}.arrow", data=case.data, seg=case.seg, properties=case.properties)
    return folder


def tiny_setting(folder, *, preset):
    """Return the plan of four generated cases, and the folder of their patches."""
    files = [write_ball(folder, index) for index in range(len(CASES))]
    plan = tiny_plan(files, preset=preset)
    return plan, write_all_patches(folder / "patches", files, plan)


def train_tiny(**arguments):
    """Train with what is given of the settings, the listener and all else."""
    taken = {}
    for kind in (TrainingSettings, TrainingListener):
        names = [field.name for field in fields(kind) if field.name in arguments]
        taken[kind] = kind(**{name: arguments.pop(name) for name in names})
    return train(taken[TrainingSettings], listener=taken[TrainingListener], **arguments)


class Killed(BaseException):
    """What a lost machine looks like from inside."""


class Run:
    """One training into a folder, with what it told."""

    def __init__(self, folder, setting, *, kill_after=None, **changes):
        self.plan, patches = setting
        self.lines, self.reports = [], []
        self.storage = open_storage(str(folder))
        self.store = CheckpointStore(self.storage, training_id="T1-infection-fold0")

        def on_epoch(report):
            self.reports.append(report)
            if kill_after == len(self.reports):
                raise Killed

        self.arguments = {
            "plan": self.plan,
            "preset": tiny_preset(),
            "training_id": "T1-infection-fold0",
            "train_cases": CASES[:3],
            "val_cases": CASES[3:],
            "patches": patches,
            "checkpoint": self.store,
            "log": self.lines.append,
            "seed": 5,
            "device": "cpu",
            "num_loader_workers": 0,
            "on_epoch": on_epoch,
            **changes,
        }
        self.outcome = None

    def go(self):
        self.outcome = train_tiny(**self.arguments)
        return self

    @property
    def text(self):
        return "\n".join(self.lines)

    @property
    def weights(self):
        return self.store.load_final().state["network_weights"]


def assert_same_weights(found, expected):
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        assert torch.equal(found[name], weights), name


def let_nnunet_find(folder, results, monkeypatch):
    """Set nnU-Net's variables for a data set of `bench.stock_trainer.folders`."""
    for name, place in (("raw", folder.root), ("preprocessed", folder.root / "preprocessed"), ("results", results)):
        monkeypatch.setenv(f"nnUNet_{name}", str(place))
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
