"""What a program asks for: the same as the commands do, without a terminal."""

from orchestrator.api.runs import (
    RequestOptions,
    load_study,
    make_request,
    open_results,
    plan_comparison,
    request_of_run,
    require_data,
    require_phantoms,
    run,
    write_report,
)
from orchestrator.api.scores import EvaluateOptions, SubmitOptions, evaluate, submit

__all__ = [
    "EvaluateOptions",
    "RequestOptions",
    "SubmitOptions",
    "evaluate",
    "load_study",
    "make_request",
    "open_results",
    "plan_comparison",
    "request_of_run",
    "require_data",
    "require_phantoms",
    "run",
    "submit",
    "write_report",
]
