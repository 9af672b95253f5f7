"""Tables from committed results."""
