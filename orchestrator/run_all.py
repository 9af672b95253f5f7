"""`python -m orchestrator.run_all`: the command `run`."""

from orchestrator.cli.run import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
