"""`python -m orchestrator.status`: the command `status`."""

from orchestrator.cli.status import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
