"""The central results store."""
