"""`python -m orchestrator`: one command for everything."""

from orchestrator.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    raise SystemExit(main())
