"""Searches: which settings of a model do best on the training cases of one training."""
