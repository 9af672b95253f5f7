"""Trained models beyond their run: predictions of any images, models handed out and taken in."""
