"""From mask files to scores."""
