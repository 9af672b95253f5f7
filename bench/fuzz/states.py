"""Patch files, checkpoints, plans and fingerprints to be changed, and what reads them."""

import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.fuzz.mutations import Random, mutate_bytes, mutate_json, mutate_tree
from bench.fuzz.seals import Rows, sealed_checkpoint, sealed_patches
from orchestrator.benchmark.definition import LabelSet, Structure
from orchestrator.benchmark.presets import PRESETS
from orchestrator.patches.reader import PatchFile
from orchestrator.patches.writer import write_patches
from orchestrator.storage import run_paths
from orchestrator.storage.filesystem import open_storage
from orchestrator.training.checkpoint import CheckpointStore

_TRAINING = "T1-lung-fold0"
_HEAD_BYTES = 48
"""Of a checkpoint: magic, digest and number."""
_LENGTH_BYTES = 8


def patches(folder: Path) -> list[bytes]:
    """Return small patch files, one a codec."""
    random = np.random.default_rng(0)
    data = np.cumsum(random.normal(size=(1, 18, 20, 70)), axis=1).astype(np.float32)
    seg = (data > 1).astype(np.int8)
    locations = {1: np.argwhere(seg == 1)[:50].astype(np.int16), (1, 2): np.zeros((0, 4), np.int16), 3: []}
    properties = {
        "spacing": [5.0, 0.8, 0.8],
        "box": ((0, 18), (0, 20)),
        "table": np.arange(6.0),
        "class_locations": locations,
    }
    made = []
    for precision in ("quantised", "lossless"):
        path = folder / "case.arrow"
        write_patches(path, data=data, seg=seg, properties=properties, precision=precision)
        made.append(path.read_bytes())
    return made


def read_patches(content: bytes, folder: Path) -> str:
    """Read everything that a file holds, also a box that reaches beyond it, and return the digest."""
    path = folder / "case.arrow"
    path.write_bytes(content)
    opened = PatchFile.open(path)
    digest = hashlib.sha256(repr(opened.labels).encode())
    for label in opened.labels:
        digest.update(np.ascontiguousarray(opened.class_locations(label)))
    shape = (opened.shape[0], 30, 30, 30)
    if opened.shape[0] < 16:
        image, segmentation = np.zeros(shape, np.float32), np.zeros(shape[1:], np.int16)
        opened.read_into(image, segmentation, start=(-5, 3, 41))
        digest.update(image)
        digest.update(segmentation)
    digest.update(repr(opened.properties).encode())
    opened.verify()
    return digest.hexdigest()


def mutate_sealed_patches(content: bytes, random: Random) -> bytes:
    """Change the header or the rows, and make the checksums right again."""
    match int(random.integers(4)):
        case 0:
            return sealed_patches(content, change_header=lambda header: mutate_tree(header, random))
        case 1:
            return sealed_patches(
                content, change_header=lambda header: mutate_json(json.dumps(header).encode(), random)
            )
        case 2:
            return sealed_patches(content, change_rows=lambda batches: _change_rows(batches, random))
    return sealed_patches(content, change_rows=lambda batches: _change_payload(batches, random))


def _change_payload(batches: list[Rows], random: Random) -> None:
    rows = batches[0]
    row = rows[int(random.integers(len(rows)))]
    row["payload"] = mutate_bytes(row["payload"], random)


def _change_rows(batches: list[Rows], random: Random) -> None:
    rows = batches[int(random.integers(len(batches)))]
    if not rows:
        return
    index, other = int(random.integers(len(rows))), int(random.integers(len(rows)))
    match int(random.integers(5)):
        case 0:
            rows.pop(index)
        case 1:
            rows.insert(index, dict(rows[other]))
        case 2:
            rows[index], rows[other] = rows[other], rows[index]
        case 3:
            rows[index]["czyx"[int(random.integers(4))]] = int(random.choice([-1, 1, 16, 2**31 - 1]))
        case _:
            rows[index]["voxels"] = random.integers(0, 2**16, (int(random.integers(9)), 3)).tolist()


def checkpoints(folder: Path) -> list[bytes]:
    """Return a checkpoint on the way of a network of a few weights, as a training saves it."""
    import torch

    from orchestrator.training.random_state import random_state

    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv3d(1, 4, 3), torch.nn.InstanceNorm3d(4, affine=True), torch.nn.Conv3d(4, 2, 1)
    )
    network.to(memory_format=torch.channels_last_3d)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
    network(torch.randn(1, 1, 8, 8, 8)).square().mean().backward()
    optimizer.step()
    state = {
        "network_weights": network.state_dict(),
        "optimizer_state": optimizer.state_dict(),
        "origin": {"seed": 0, "train_cases": ["a", "b"]},
        "logging": {"train_losses": [np.float32(0.5)], "dice_per_class_or_region": [[np.float64(0.5)]]},
        "current_epoch": 1,
        "losses_of_epoch": [np.float32(0.25)],
        "environments": ({"torch": "2"},),
        "random_state": random_state(cuda=False),
    }
    storage = open_storage(str(folder))
    CheckpointStore(storage, training_id=_TRAINING).save_latest(state)
    return [storage.read_bytes(key) for key in run_paths.checkpoint_slots(_TRAINING) if storage.exists(key)]


def read_checkpoint(content: bytes, folder: Path) -> str:
    """Load it as a training that goes on would, random states included; return what it holds as text."""
    import torch

    from orchestrator.training.checkpoint import fitting
    from orchestrator.training.random_state import restore_random_state

    storage = open_storage(str(folder))
    storage.write_bytes(run_paths.checkpoint_slots(_TRAINING)[1], content)
    state: Any = CheckpointStore(storage, training_id=_TRAINING).load_latest()
    with fitting("the checkpoint"):
        network = torch.nn.Sequential(
            torch.nn.Conv3d(1, 4, 3), torch.nn.InstanceNorm3d(4, affine=True), torch.nn.Conv3d(4, 2, 1)
        )
        optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.99, nesterov=True)
        network.load_state_dict(state["network_weights"])
        optimizer.load_state_dict(state["optimizer_state"])
        restore_random_state(state["random_state"], cuda=False)
        np.random.random(4)  # noqa: NPY002 - the state that was restored must be one that can be drawn from
    sink = io.BytesIO()
    return repr([state.pop("random_state")["numpy"][2], state, sink.getvalue()])


def mutate_sealed_checkpoint(content: bytes, random: Random) -> bytes:
    """Change number, tree or tensors, and make the digest right again."""
    body = content[_HEAD_BYTES:]
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES], "big")
    tree, tensors = body[_LENGTH_BYTES:end], body[end:]
    match int(random.integers(5)):
        case 0:
            return sealed_checkpoint(body, number=int(random.choice([0, 2**31, 2**63 - 1])))
        case 1:
            return sealed_checkpoint(mutate_bytes(body, random))
        case 2:
            return sealed_checkpoint(body[:end] + mutate_bytes(tensors, random))
        case 3:
            length = int.from_bytes(tensors[:_LENGTH_BYTES], "little")
            header = mutate_json(tensors[_LENGTH_BYTES : _LENGTH_BYTES + length], random)
            rest = tensors[_LENGTH_BYTES + length :]
            return sealed_checkpoint(body[:end] + len(header).to_bytes(_LENGTH_BYTES, "little") + header + rest)
    tree = mutate_json(tree, random)
    return sealed_checkpoint(len(tree).to_bytes(_LENGTH_BYTES, "big") + tree + tensors)


def plans(folder: Path) -> list[bytes]:
    """Return nnU-Net's plan of a tiny data set."""
    from orchestrator.training.nnunet.planning import CaseFingerprint, make_plan

    made = [CaseFingerprint.from_bytes(content) for content in fingerprints(folder)]
    label_set = LabelSet(name="lung", structures=(Structure(name="lung", label=1, tolerance_mm=1.0),))
    plan = make_plan(made, label_set=label_set, configuration="2d", preset=PRESETS["smoke"], donor=None, name="tiny")
    return [plan.to_bytes()]


def read_plan(content: bytes, _folder: Path) -> str:
    """Parse it."""
    from orchestrator.training.nnunet.planning import Plan

    return repr(Plan.from_bytes(content))


def fingerprints(_folder: Path) -> Sequence[bytes]:
    """Return the fingerprints of two cases."""
    from orchestrator.training.nnunet.planning import CaseFingerprint

    random = np.random.default_rng(0)
    return [
        CaseFingerprint(
            shape_after_crop=(40, 64, 64),
            spacing_mm=(5.0, 0.8, 0.8),
            relative_size_after_cropping=0.9,
            foreground=random.integers(-900, 100, (1, 500 + index)).astype(np.int16),
        ).to_bytes()
        for index in range(2)
    ]


def read_fingerprint(content: bytes, _folder: Path) -> str:
    """Parse it."""
    from orchestrator.training.nnunet.planning import CaseFingerprint

    read = CaseFingerprint.from_bytes(content)
    return repr((read, read.foreground.tobytes()))
