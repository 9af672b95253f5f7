"""Runs on Kubernetes: what a cluster file may say of pods, the manifest that follows, the command that applies it."""
