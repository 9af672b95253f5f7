"""Runs below a real Slurm, by `python -m bench.slurm`."""
