"""The report of a run that goes on, as a page that a browser of this machine reads again and again."""
