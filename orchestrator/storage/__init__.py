"""Files of a run, on a disk or on S3, behind one door."""
