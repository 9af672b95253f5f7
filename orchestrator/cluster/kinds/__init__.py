"""The kinds of clusters, one file a kind: its fields, its node pools, how a run comes to its Ray."""
