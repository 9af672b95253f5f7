"""The one door to Ray: it carries out what the scheduler decides."""
