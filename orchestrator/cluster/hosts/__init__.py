"""Hosts that are reached by SSH: what they are asked, and how they become machines of a run."""
