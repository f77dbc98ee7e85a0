"""A strict session: JAX promotes no ranks silently, and warnings are errors (pyproject.toml).

Dtypes are not strict: optax's Adam mixes its integer step count with floats.
"""

import os

os.environ["JAX_PLATFORMS"] = "cpu"  # before JAX is imported: the tests compare bits

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
