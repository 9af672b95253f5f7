"""Batch systems: what they are told, jobs that are machines, and a driver that is a job."""
