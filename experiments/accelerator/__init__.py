"""Proof and measurements on an accelerator: `python -m experiments.accelerator --help`."""

import os

# JAX would take three quarters of the card's memory, and PyTorch is measured in the same process.
# Libraries read it when they are loaded.
os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
# Some steps are compared with the CPU's.
if os.environ.get("JAX_PLATFORMS") and "cpu" not in os.environ["JAX_PLATFORMS"].split(","):
    os.environ["JAX_PLATFORMS"] += ",cpu"
