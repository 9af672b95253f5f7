"""The sealed bundle of a run: what its tables rest on, in one zip that is checked without the run."""
