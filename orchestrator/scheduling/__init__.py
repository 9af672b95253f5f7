"""What starts next and where, what is tried again: pure decisions without Ray, clock or files."""
