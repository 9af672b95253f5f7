"""What a search tries and which of its trials it ends early: the one door to Ray Tune."""
