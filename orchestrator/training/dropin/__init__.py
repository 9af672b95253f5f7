"""Our feed and checkpoints for whoever trains with `nnUNetv2_train`: no study, no Ray."""
