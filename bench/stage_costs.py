"""Measures what the stages of a case cost on one core: CPU seconds, seconds a voxel, and the memory of the process.

    python -m bench.stage_costs [--cases NAME ...]

Phantoms of COVID-19-CT-Seg, two unless others are named, go through the stages as one training does it: in miniature,
then at full size, on the grid between them. Each kind of stage has a process of its own, which has carried it out once
before it is measured. Of a prediction, what the network does is left out: at full size it belongs on a GPU. What its
forward pass costs beside a training iteration is measured for the network of the miniature.

The numbers in `orchestrator/benchmark/costs.py` are from here.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from math import prod
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.export_prediction import convert_predicted_logits_to_segmentation_with_correct_shape
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from bench.instruments.command_line import command_line
from bench.instruments.machine import conditions
from orchestrator.benchmark.definition import Case, Training
from orchestrator.benchmark.loading import load_study
from orchestrator.scoring.score import score_files
from orchestrator.scoring.structures import ScoredStructure
from orchestrator.stages.carry_out import carry_out
from orchestrator.stages.context import RunContext
from orchestrator.storage import run_paths
from orchestrator.training.nnunet.planning import Plan
from orchestrator.training.nnunet.prepared_image import prepare_image, read_images
from orchestrator.workflow.graph import Stage, build_graph
from orchestrator.workflow.keys import StageKind

SIZES = ("smoke", "paper")
"""Presets: a miniature and full size."""
TITLES = ("miniature", "full size")
NUM_PASSES = 20
CARRIED_OUT = (
    StageKind.DOWNLOAD,
    StageKind.INGEST,
    StageKind.LABELS,
    StageKind.FINGERPRINT,
    StageKind.PLAN,
    StageKind.PREPROCESS,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SmallRun:
    """A run of one training, as far as its patches."""

    context: RunContext
    training: Training
    stages: tuple[Stage, ...]

    @property
    def plan(self) -> Plan:
        """Of the training."""
        return Plan.from_bytes(self.context.storage.read_bytes(run_paths.plan(self.training.id)))

    def image_of(self, case: Case) -> Path:
        """Return an ingested image."""
        return self.context.storage.fetch(run_paths.case_image(case))

    @property
    def image(self) -> Path:
        """That of the first case."""
        return self.image_of(self.training.train[0])

    @property
    def labels(self) -> Path:
        """Its label map."""
        return self.context.storage.fetch(
            run_paths.case_labels(self.training.train[0], label_set=self.training.label_set)
        )

    @property
    def prediction(self) -> Path:
        """What is written in place of a prediction."""
        return Path(self.context.output) / "prediction.nii.gz"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one step costs."""

    seconds: dict[str, float]
    """By size."""
    peak_gib: dict[str, float]
    """Of the process, with all that it has imported, by size."""


def run_of(folder: Path, *, size: str, names: Sequence[str]) -> SmallRun:
    """Return the run of one training with these cases, of which the first is measured."""
    study = load_study()
    preset = study.preset(size)
    cases = tuple(Case(dataset="covid-19-ct-seg", name=name) for name in names)
    training = study.trainings(only=("T1-lung-fold0",), preset=preset)[0]
    tested = replace(training.evaluation_sets[0], cases=cases[:1])
    training = replace(training, train=cases, val=(), evaluation_sets=(tested,))
    datasets = {dataset.name: dataset for dataset in study.datasets}
    graph = build_graph([training], donors={}, datasets=datasets, preset=preset, phantoms=True)
    context = RunContext(
        output=str(folder / size),
        data=None,
        preset=preset,
        seed=0,
        datasets=datasets,
        label_sets={label_set.name: label_set for label_set in study.label_sets},
        phantom_cases={"covid-19-ct-seg": cases},
        device="cpu",
        num_threads=1,
        num_loader_workers=0,
    )
    return SmallRun(context=context, training=training, stages=tuple(graph.values()))


def export(run: SmallRun) -> None:
    """Do what a prediction does beside its network: prepare the image, bring logits to its grid, write labels."""
    plan = run.plan
    case = prepare_image(*read_images([run.image], plan), plan)
    labels = convert_predicted_logits_to_segmentation_with_correct_shape(
        torch.zeros((plan.label_manager.num_segmentation_heads, *case.data.shape[1:]), dtype=torch.half),
        plan.plans_manager,
        plan.configuration_manager,
        plan.label_manager,
        case.properties,
        num_threads_torch=1,
    )
    sitk.WriteImage(sitk.GetImageFromArray(labels.astype(np.uint8)), str(run.prediction), useCompression=True)


def score(run: SmallRun) -> None:
    """Score the labels of a case against themselves: every surface is read and compared."""
    structures = [
        ScoredStructure(
            name=s.name, reference_labels=(s.label,), prediction_labels=(s.label,), tolerance_mm=s.tolerance_mm
        )
        for s in run.context.label_sets[run.training.label_set].structures
    ]
    score_files(run.labels, [run.labels], structures=structures)


EXPORT = "prediction without its network"
BESIDE_STAGES: dict[str, Callable[[SmallRun], object]] = {EXPORT: export, "score": score}
"""Steps with the first case alone."""


def stages_of(kind: StageKind) -> Callable[[SmallRun], object]:
    """Return what carries out all stages of a kind."""
    return lambda run: [carry_out(run.context, stage) for stage in run.stages if stage.kind is kind]


def cost(name: str, miniature: SmallRun, full: SmallRun) -> Cost:
    """Take a step with both runs; in a process of its own."""
    torch.set_num_threads(1)
    step = BESIDE_STAGES.get(name) or stages_of(StageKind(name))
    step(miniature)
    found = Cost(seconds={}, peak_gib={})
    for size, run in zip(SIZES, (miniature, full), strict=True):
        found.seconds[size] = cpu_s(step, run)
        # Not ru_maxrss: that begins with the memory of the process that started this one.
        status = Path("/proc/self/status").read_text()
        found.peak_gib[size] = int(status.partition("VmHWM:")[2].split()[0]) / 2**20
    return found


def cpu_s(step: Callable[[SmallRun], object], run: SmallRun) -> float:
    """Return the CPU seconds of a step, of all threads."""
    began_s = time.process_time()
    step(run)
    return time.process_time() - began_s


def megavoxels(name: str, run: SmallRun) -> list[float]:
    """Return the million voxels of each case of a step; on the grid of the training where they are brought to it."""
    images = [read_header(run.image_of(case)) for case in run.training.train[: 1 if name in BESIDE_STAGES else None]]
    if name not in {EXPORT, StageKind.PREPROCESS}:
        return [prod(image.GetSize()) / 1e6 for image in images]
    voxel_mm3 = prod(run.plan.configuration_manager.spacing)
    return [prod(image.GetSize()) * prod(image.GetSpacing()) / voxel_mm3 / 1e6 for image in images]


def read_header(path: Path) -> sitk.ImageFileReader:
    """Read size and spacing of an image."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader


def iteration_and_pass_s(miniature: SmallRun) -> tuple[float, float]:
    """Return the seconds of a training iteration and of one patch's forward pass, on one core."""
    torch.set_num_threads(1)
    plan = miniature.plan
    configuration = plan.configuration_manager
    network = nnUNetTrainer.build_network_architecture(
        plan.plans_manager, configuration, 1, plan.label_manager.num_segmentation_heads, enable_deep_supervision=False
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = torch.randn(configuration.batch_size, 1, *configuration.patch_size)
    iterations, passes = [], []
    for _ in range(NUM_PASSES):
        began_s = time.perf_counter()
        optimizer.zero_grad()
        network(batch).square().mean().backward()
        optimizer.step()
        iterations.append(time.perf_counter() - began_s)
        began_s = time.perf_counter()
        with torch.inference_mode():
            network(batch[:1])
        passes.append(time.perf_counter() - began_s)
    return min(iterations), min(passes)


def main() -> None:
    """Measure and print."""
    parser = command_line("stage_costs", description=__doc__)
    names = ["coronacases_001", "coronacases_002"]
    parser.add_argument("--cases", nargs="+", default=names, help=f"of COVID-19-CT-Seg ({' '.join(names)})")
    options = parser.parse_args()
    print(f"{conditions('nnunetv2', 'torch')}, of which one is used\n")
    columns = ["step", *(f"{size}, CPU s" for size in TITLES), "million voxels", "s / million voxels"]
    columns += [*(f"{size}, peak GiB" for size in TITLES), "GiB / million voxels of a case"]
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    with tempfile.TemporaryDirectory(prefix="stage-costs-") as folder:
        miniature, full = (run_of(Path(folder), size=size, names=options.cases) for size in SIZES)
        found = {}
        for name in (*map(str, CARRIED_OUT), *BESIDE_STAGES):
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
                found[name] = executor.submit(cost, name, miniature, full).result()
        for name, one in found.items():
            voxels, (small_s, full_s) = megavoxels(name, full), one.seconds.values()
            small_gib, full_gib = one.peak_gib.values()
            each_gib = (full_gib - small_gib) / (max(voxels) - max(megavoxels(name, miniature)))
            print(
                f"| {name} | {small_s:.3f} | {full_s:.1f} | {sum(voxels):.0f} | {full_s / sum(voxels):.3f} "
                f"| {small_gib:.1f} | {full_gib:.1f} | {each_gib:.3f} |"
            )
        iteration_s, pass_s = iteration_and_pass_s(miniature)
    print(f"\nMiniature: an iteration takes {iteration_s:.3f} s, a forward pass of one patch {pass_s:.3f} s.")


if __name__ == "__main__":
    main()
