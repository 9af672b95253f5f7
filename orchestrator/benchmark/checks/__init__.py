"""What the names in a study's files must be, beside their type."""
