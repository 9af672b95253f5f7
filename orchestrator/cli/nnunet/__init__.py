"""Commands for whoever trains with `nnUNetv2_train`."""
