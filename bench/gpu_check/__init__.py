"""What a CUDA machine tells in eight minutes, by `bench/gpu_check.sh`."""
