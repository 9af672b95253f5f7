"""The page of a large run, by `python -m bench.report`."""
