"""What a CUDA machine tells of trainings and predictions, in one go of at most eight minutes, as one JSON file.

    python -m bench.gpu_check [--output gpu_check.json]
    python -m bench.gpu_check --device cpu --preset smoke --size 64 --slices 40 --iterations 1 --shape 20 40 40 \
        --patch 16 --features 4 --limit-s 300                                         # tries it anywhere

It measures, each in a process of its own that is held to its cores and ended after `--limit-s`: seconds an epoch and
utilisation of the GPU by nnU-Net's feed and by ours with 2, 4, 8 and all cores; two trainings that share the GPU; a
training that is killed after a checkpoint and goes on; a prediction of a CT of 512 x 512 x 300 by nnU-Net and by ours,
with its time, the largest memory of GPU and host, and how many labels differ. What fails or does not end is a line that
says so, and what is measured so far is in the file at any time. `bench/gpu_check.sh` runs it on a machine without a
network.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.gpu_check.absent_packages import stand_in

stand_in()

import torch  # noqa: E402 - stand-ins come first

from bench.feed.gpu import KINDS, held_to, train_epochs, write_cases  # noqa: E402
from bench.gpu_check.parts import ARMS, predict_with, train_with_checkpoints, write_network  # noqa: E402
from bench.instruments.command_line import command_line, positive_integer  # noqa: E402
from bench.instruments.machine import conditions  # noqa: E402

DEADLINE_S = 480.0
LIMIT_S = 75.0
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One go."""

    options: argparse.Namespace
    folder: Path
    ends_at_s: float

    def run(self, name: str, *, cores: int, **arguments: Any) -> subprocess.Popen[str]:
        """Start a part in a process of its own."""
        command = [sys.executable, "-m", "bench.gpu_check", "--child", name, "--folder", str(self.folder)]
        options = self.options
        command += ["--device", options.device, "--preset", options.preset, "--iterations", str(options.iterations)]
        for key, value in arguments.items():
            command += [f"--{key}", str(value)]
        environment = {**os.environ, "nnUNet_compile": "f", "OMP_NUM_THREADS": "1"}
        with held_to(cores):
            return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True)

    def answer(self, child: subprocess.Popen[str]) -> dict[str, Any]:
        """Return what a part has said; what is wrong with it, if it has not."""
        left_s = min(self.options.limit_s, self.ends_at_s - time.monotonic())
        try:
            said, _ = child.communicate(timeout=max(0.1, left_s))
        except subprocess.TimeoutExpired:
            # With the loaders that it has started.
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            return {"error": f"not ended after {max(0.1, left_s):.0f} s"}
        if child.returncode:
            return {"error": f"failed with exit code {child.returncode}"}
        # JSON has no word for what is no number.
        found: dict[str, Any] = json.loads(said.splitlines()[-1], parse_constant=lambda _: None)
        return found

    def is_over(self) -> bool:
        """Whether no time is left."""
        return time.monotonic() >= self.ends_at_s


def epochs(check: Check) -> list[dict[str, Any]]:
    """Measure both feeds with each number of cores."""
    rows = []
    for cores in check.options.cores:
        for kind in KINDS:
            if not check.is_over():
                found = check.answer(check.run("epochs", cores=cores, kind=kind))
                rows.append({"cores": cores, "feed": kind, **found})
    return rows


def sharing(check: Check) -> list[dict[str, Any]]:
    """Measure two trainings at a time, each with half of the cores."""
    cores = max(1, max(check.options.cores) // 2)
    children = [check.run("epochs", cores=cores, kind="ours") for _ in range(2)]
    return [check.answer(child) for child in children]


def resumed(check: Check) -> dict[str, Any]:
    """Kill a training when it has a checkpoint, and let it go on."""
    cores = max(check.options.cores)
    first = check.run("training", cores=cores)
    until_s = min(time.monotonic() + check.options.limit_s, check.ends_at_s)
    while (
        first.poll() is None and not list((check.folder / CHECKPOINTS).rglob("*.ckpt")) and time.monotonic() < until_s
    ):
        time.sleep(0.05)
    is_killed = first.poll() is None
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    return {"killed": is_killed, **check.answer(check.run("training", cores=cores))}


def prediction(check: Check) -> dict[str, Any]:
    """Predict with both, and compare the labels."""
    import numpy as np

    options = check.options
    write_network(check.folder, patch=options.patch, features=options.features, num_classes=options.classes)
    found: dict[str, Any] = {}
    for arm in ARMS:
        if not check.is_over():
            shape = " ".join(map(str, options.shape))
            found[arm] = check.answer(check.run("prediction", cores=max(options.cores), arm=arm, sizes=shape))
    files = [check.folder / f"{arm}.npy" for arm in ARMS]
    if all(file.exists() for file in files):
        labels = [np.load(file) for file in files]
        found |= {"labels_differ": int(np.count_nonzero(labels[0] != labels[1])), "labels": int(labels[0].size)}
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    all_cores = len(os.sched_getaffinity(0))
    parser = command_line("gpu_check", description=__doc__)
    add = parser.add_argument
    default = sorted({min(number, all_cores) for number in (2, 4, 8, all_cores)})
    add("--cores", type=positive_integer, nargs="+", default=default, help="numbers of cores (2, 4, 8 and all)")
    add("--iterations", type=positive_integer, default=20, help="of each of the epochs (20)")
    add("--slices", type=positive_integer, nargs="+", default=[90, 150, 250], help="of the cases (90 150 250)")
    add("--size", type=positive_integer, default=512, help="voxels along y and x of the cases (512)")
    add("--preset", default="paper", help="whose network is trained (paper)")
    add("--shape", type=positive_integer, nargs=3, default=[300, 512, 512], help="of the CT that is predicted")
    add("--patch", type=positive_integer, default=128, help="edge of a window (128)")
    add("--features", type=positive_integer, default=32, help="of the first stage of the network (32)")
    add("--classes", type=positive_integer, default=3, help="of the network (3)")
    add("--limit-s", type=float, default=LIMIT_S, help=f"longest time of a part ({LIMIT_S:g})")
    add("--deadline-s", type=float, default=DEADLINE_S, help=f"longest time of all ({DEADLINE_S:g})")
    add("--device", choices=("cuda", "cpu"), default="cuda", help="cpu tries the check itself")
    add("--output", type=Path, default=Path("gpu_check.json"), help="file to write (gpu_check.json)")
    for hidden in ("--child", "--kind", "--arm", "--sizes"):
        add(hidden, help=argparse.SUPPRESS)
    add("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def _child(options: argparse.Namespace) -> dict[str, Any]:
    workers = max(1, len(os.sched_getaffinity(0)) - 1)
    given = {"preset": options.preset, "num_workers": workers, "device": options.device}
    if options.child == "epochs":
        return asdict(train_epochs(options.folder, kind=options.kind, iterations=options.iterations, **given))
    if options.child == "training":
        where = options.folder / CHECKPOINTS
        return train_with_checkpoints(options.folder, where, iterations=options.iterations, **given)
    shape = tuple(map(int, options.sizes.split()))
    return predict_with(options.arm, options.folder, shape=shape, device=options.device)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure everything, and write the file after each part."""
    options = _parse(arguments)
    if options.child:
        print(json.dumps(_child(options)))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("no GPU is visible; expected one, or --device cpu to try the check itself")
    found: dict[str, Any] = {
        "conditions": conditions("nnunetv2", "torch"),
        "gpu": torch.cuda.get_device_name() if options.device == "cuda" else "none",
        "options": {key: value for key, value in vars(options).items() if not isinstance(value, Path)},
    }
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        check = Check(options=options, folder=Path(folder), ends_at_s=time.monotonic() + options.deadline_s)
        write_cases(check.folder, slices=options.slices, size=options.size, preset=options.preset)
        # Kernels that this machine has never run are compiled at their first call.
        found["first_call"] = check.answer(check.run("epochs", cores=max(options.cores), kind="ours"))
        # What only a GPU can tell comes first, the long table last.
        for part in (prediction, resumed, sharing, epochs):
            start_s = time.monotonic()
            found[part.__name__] = {"error": "no time was left"} if check.is_over() else part(check)
            found.setdefault("seconds", {})[part.__name__] = round(time.monotonic() - start_s, 1)
            options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(options.output.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
