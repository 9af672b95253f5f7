"""How sure a number is, and whether one is really larger than another: arrays in, numbers out."""
