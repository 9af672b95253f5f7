"""Machines on AWS: the `ray` section of a cluster file, its pools, and a run on machines that are started for it."""
