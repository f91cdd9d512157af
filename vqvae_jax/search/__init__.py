"""Nearest-code search: exact by blocks or by a Pallas kernel, or approximate in bfloat16."""

from vqvae_jax.search.bfloat16 import nearest_in_bfloat16 as nearest_in_bfloat16
