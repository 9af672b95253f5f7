"""One file for each format of volumes, and what formats with a header of lines have in common."""
