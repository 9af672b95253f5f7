"""Where a run takes place: strict configuration and launch of clusters."""
