"""`jax.jit` for tests of formulas, whose time goes into compiling: a third of it, for slower code.

What users run, XLA's usual optimisation, is behind all other tests.
"""

from functools import partial

import jax

from vqvae_jax import fast_compile

jit = partial(jax.jit, compiler_options=fast_compile())
