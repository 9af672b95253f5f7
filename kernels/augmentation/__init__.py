"""What is done to a patch before a network sees it."""
