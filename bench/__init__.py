"""Every figure that the project claims comes from a command in this folder."""
