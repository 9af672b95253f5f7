"""One living run of one study: what is asked for, whether it may begin, what becomes of it."""
