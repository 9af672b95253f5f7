"""Which trainings of a study are meant: by patterns, and together."""
