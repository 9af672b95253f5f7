"""`python -m orchestrator.doctor`: the command `doctor`."""

from orchestrator.cli.doctor import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
