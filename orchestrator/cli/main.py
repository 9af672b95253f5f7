"""One command for everything: `orchestrator run` and so on, each a module of this room."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

EXIT_DONE, EXIT_USAGE, EXIT_INTERRUPTED = 0, 2, 130
COMMANDS = {
    "run": "train, predict, score and tabulate a study; simulate it; show what it would do",
    "study": "write a study file for data sets in nnU-Net's raw layout, or check one against its data",
    "sweep": "search for better settings of a model, on the training cases of one training",
    "report": "write a page with scores, comparisons and figures of a run",
    "plan-comparison": "say how many patients and trainings would answer the questions of a study",
    "bundle": "seal the scores, tables and report of a run in one zip, or check such a zip",
    "export-tracking": "write the trainings of a run for MLflow, W&B or trackio",
    "status": "show how far a run is",
    "export": "hand out the models of a run, as zips that nnU-Net installs",
    "import": "take zips of models of others in, without running anything in them",
    "predict": "predict images with a trained model, also of others",
    "evaluate": "score folders of label maps, without any training",
    "submit": "score and rank label maps of other methods, beside those of a run or by themselves",
    "verify": "compare every file of a run with what was written",
    "doctor": "check a data folder and list all of its problems",
    "install-trainer": "let nnUNetv2_train find our trainer, without any study",
    "convert-preprocessed": "write what nnU-Net has preprocessed as patch files, or back",
    "phantoms": "write phantoms in the layouts of the public downloads",
}
"""Name, which is that of its module, and what it does."""
_MODULES = {
    "report": "results.report",
    "submit": "results.submit",
    "bundle": "results.bundle",
    "export-tracking": "results.export_tracking",
    "import": "import_models",
    "install-trainer": "nnunet.install_trainer",
    "convert-preprocessed": "nnunet.convert_preprocessed",
    "plan-comparison": "results.plan_comparison",
}
"""Of commands whose name is none of a module."""
PROGRAM = "orchestrator"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; returns its exit code, 2 for one that does not exist."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if words[:1] in (["--version"], ["-V"], ["version"]):
        sys.stdout.write(f"{PROGRAM} {version('nnunet-orchestrator')}\n")
        return EXIT_DONE
    if not words or words[0] in {"-h", "--help"}:
        sys.stdout.write(_help())
        return EXIT_DONE
    if words[0] not in COMMANDS:
        near = difflib.get_close_matches(words[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(COMMANDS)}"
        sys.stderr.write(f"error: {words[0]}: no such command; {hint}\n")
        return EXIT_USAGE
    try:
        # Only the module that is needed: all of them take seconds to import, in which somebody may think better of it.
        module = importlib.import_module(f"orchestrator.cli.{_MODULES.get(words[0], words[0])}")
        exit_code: int = module.main(words[1:])
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return EXIT_INTERRUPTED
    return exit_code


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {what}" for name, what in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {PROGRAM} COMMAND [OPTIONS]",
            "",
            "Studies of nnU-Net trainings on Ray, from data sets to tables.",
            "",
            *lines,
            "",
            f"`{PROGRAM} COMMAND --help` tells the options of each; {PROGRAM} --version the version.",
            "",
        ]
    )
