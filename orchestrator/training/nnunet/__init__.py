"""What plans, trains and predicts with nnU-Net's own classes."""
