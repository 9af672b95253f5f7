"""How the work of a run is decided and carried out."""
