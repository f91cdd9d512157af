"""Benchmarks of speed and memory beside other libraries: `python -m experiments.bench --help`."""

import os

# OpenMP threads that wait by spinning take the cores from those that work: on two shared cores
# PyTorch's backward pass took 20 times as long. Libraries read it when they are loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
