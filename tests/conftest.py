"""A strict session: JAX promotes no ranks silently, and warnings are errors (pyproject.toml).

Dtypes are not strict: optax's Adam mixes its integer step count with floats.
"""

import os

# Before JAX is imported. The tests compare bits; and most of their time is compilation, so LLVM need not optimise.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
