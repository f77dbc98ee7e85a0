"""A strict session: JAX promotes no ranks silently, and warnings are errors (pyproject.toml).

Dtypes are not strict: optax's Adam mixes its integer step count with floats.
"""

import os
from pathlib import Path

# Compiled programs are kept for the next test, process and session: compiling is most of the tests' time. JAX names
# each by a hash of the program, its compiler's version and options, so a change of the code never finds an old program.
# `pytest --cache-clear` empties the folder.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parents[1] / ".pytest_cache" / "d" / "compiled")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

# Before JAX is imported. The tests compare bits; and most of their time is compilation, so LLVM need not optimise.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_backend_optimization_level=0"

import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_rank_promotion", "raise")

# The shapes in the annotations of these modules are checked at every call. Outside the tests they cost nothing.
SHAPED = ["dfp.drift", "dfp.agents", "dfp.training.replay", "dfp.training.updates"]
install_import_hook(SHAPED, "beartype.beartype")


@pytest.fixture(autouse=True)
def _environment():
    """Commands write XLA's flags into the environment. A later test's processes must not inherit them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)
