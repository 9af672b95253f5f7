"""Studies of nnU-Net trainings on Ray: what is trained is data, and what is done is not done again.

The names below are all that a program needs. Each is imported when it is first used: Ray, torch and ITK take seconds.
"""

import importlib
from typing import TYPE_CHECKING, Any

from orchestrator.processes import settle_thread_numbers

if TYPE_CHECKING:
    from kernels import score_masks
    from orchestrator.api import evaluate, load_study, open_results, plan_comparison, run, submit, write_report
    from orchestrator.inference.exporting import export_models
    from orchestrator.inference.importing import import_models
    from orchestrator.inference.predict import predict

__all__ = [
    "evaluate",
    "export_models",
    "import_models",
    "load_study",
    "open_results",
    "plan_comparison",
    "predict",
    "run",
    "score_masks",
    "submit",
    "write_report",
]

settle_thread_numbers()

_PLACES = {
    "evaluate": "orchestrator.api",
    "export_models": "orchestrator.inference.exporting",
    "import_models": "orchestrator.inference.importing",
    "load_study": "orchestrator.api",
    "open_results": "orchestrator.api",
    "plan_comparison": "orchestrator.api",
    "predict": "orchestrator.inference.predict",
    "run": "orchestrator.api",
    "score_masks": "kernels",
    "submit": "orchestrator.api",
    "write_report": "orchestrator.api",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
