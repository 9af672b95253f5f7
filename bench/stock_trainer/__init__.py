"""The trainer for nnU-Net's own command beside nnU-Net's, by `python -m bench.stock_trainer`."""
