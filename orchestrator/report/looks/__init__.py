"""Looks at a study that goes on: what is planned before anything is trained, and what they have decided."""
