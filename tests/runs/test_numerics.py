"""Environment variables that change numbers: refused, or recorded."""

import subprocess
import sys

import jax
import pytest

from dfp.runs import numerics
from dfp.spec import ConfigError


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        ("JAX_ENABLE_X64", "1", True),
        ("JAX_ENABLE_X64", "True", True),
        ("JAX_ENABLE_X64", "0", False),
        ("JAX_ENABLE_X64", "", False),
        ("JAX_DEFAULT_MATMUL_PRECISION", "highest", True),
        ("JAX_DEFAULT_MATMUL_PRECISION", "bfloat16", True),
        ("JAX_DEFAULT_MATMUL_PRECISION", "default", False),
        ("JAX_DEFAULT_PRNG_IMPL", "rbg", True),
        ("JAX_DEFAULT_PRNG_IMPL", "threefry2x32", False),
        ("JAX_THREEFRY_PARTITIONABLE", "false", True),
        ("JAX_RANDOM_SEED_OFFSET", "7", True),
        ("JAX_NUMPY_DTYPE_PROMOTION", "strict", True),
        ("JAX_NUMPY_DTYPE_PROMOTION", "no such", True),
        ("JAX_DISABLE_JIT", "on", True),
        ("XLA_FLAGS", "--a=1 --xla_cpu_enable_fast_math=true", True),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math", True),
        ("XLA_FLAGS", "--xla_gpu_enable_fast_min_max=true", True),
        ("XLA_FLAGS", "--xla_cpu_enable_fast_math=false --xla_backend_optimization_level=0", False),
        ("XLA_FLAGS", "flags.txt", True),
        ("XLA_FLAGS", "--a=1 '--xla_cpu_enable_fast_math=true'", True),
        ("JAX_ACCURATE_ERF_INV", "1", True),
        ("JAX_HIGH_DYNAMIC_RANGE_GUMBEL", "1", True),
        ("NVIDIA_TF32_OVERRIDE", "0", False),
    ],
)
def test_what_must_hold(name, value, refused):
    if refused:
        with pytest.raises(ConfigError, match=name):
            numerics.require({name: value})
    else:
        numerics.require({name: value})


def test_what_is_recorded():
    found = {"JAX_OPTIMIZATION_LEVEL": "O0", "NVIDIA_TF32_OVERRIDE": "0", "XLA_FLAGS": "--a=1"}
    assert numerics.recorded(found | {"OMP_NUM_THREADS": "", "HOME": "x"}) == found


def test_what_must_hold_is_what_jax_does_when_nothing_is_set():
    names = [name.lower() for name in numerics.REQUIRED]
    found = [getattr(jax.config, name) for name in names]
    assert found == [False, None, "threefry2x32", True, 0, "standard", False, False, False]
    assert list(numerics.REQUIRED) == [
        "JAX_ENABLE_X64",
        "JAX_DEFAULT_MATMUL_PRECISION",
        "JAX_DEFAULT_PRNG_IMPL",
        "JAX_THREEFRY_PARTITIONABLE",
        "JAX_RANDOM_SEED_OFFSET",
        "JAX_NUMPY_DTYPE_PROMOTION",
        "JAX_DISABLE_JIT",
        "JAX_ACCURATE_ERF_INV",
        "JAX_HIGH_DYNAMIC_RANGE_GUMBEL",
    ]


def test_the_command_refuses_it_in_one_line_before_jax_is_imported():
    command = [sys.executable, "-m", "dfp", "ops", "status"]
    environment = {"JAX_NUMPY_DTYPE_PROMOTION": "no such"}  # which JAX itself refuses with a traceback
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("dfp: JAX_NUMPY_DTYPE_PROMOTION=no such: changes the numbers of a run; allowed: standard")
