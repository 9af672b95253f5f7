"""From patch files to the batches of a network."""
