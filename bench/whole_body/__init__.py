"""Scores of whole bodies beside other libraries, by `python -m bench.whole_body`."""
