"""What several benchmarks measure with, and the hosts and models that they measure on."""
