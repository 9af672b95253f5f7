"""Commands about the scores of runs and of label maps."""
