"""The Arrow patch store of preprocessed cases."""
