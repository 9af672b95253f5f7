"""A challenge of many submissions, by `python -m bench.submissions`."""
