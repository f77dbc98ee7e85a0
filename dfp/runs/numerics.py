"""Environment variables that change the numbers of a run of the same spec: some are refused, others are recorded.

JAX reads most of them when it is imported, so ``dfp`` checks them before.
"""

from __future__ import annotations

from collections.abc import Mapping

from dfp.errors import ConfigError

_FALSE = ("0", "false", "f", "n", "no", "off")
_TRUE = ("1", "true", "t", "y", "yes", "on")

# The allowed values of each, in lower case. The first is the default. An empty variable counts as not set.
REQUIRED: dict[str, tuple[str, ...]] = {
    "JAX_ENABLE_X64": _FALSE,
    "JAX_DEFAULT_MATMUL_PRECISION": ("default",),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32",),
    "JAX_THREEFRY_PARTITIONABLE": _TRUE,
    "JAX_RANDOM_SEED_OFFSET": ("0",),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard",),
    "JAX_DISABLE_JIT": _FALSE,
    "JAX_ACCURATE_ERF_INV": _FALSE,  # in every normal draw
    "JAX_HIGH_DYNAMIC_RANGE_GUMBEL": _FALSE,
}
# Flags of XLA_FLAGS that must be off if they are named: fast mathematics.
REFUSED_FLAGS = ("xla_cpu_enable_fast_math", "xla_cpu_enable_fast_min_max", "xla_gpu_enable_fast_min_max")
RECORDED = ("NVIDIA_TF32_OVERRIDE", "TF_CUDNN_DETERMINISTIC", "OMP_NUM_THREADS")
RECORDED_PREFIXES = ("JAX_", "XLA_")  # some change rounding, and every version has new ones


def require(environment: Mapping[str, str]) -> None:
    """Raises :class:`ConfigError` naming the first variable that would change results without a trace in the spec."""
    for name, allowed in REQUIRED.items():
        value = environment.get(name, "")
        if value and value.lower() not in allowed:
            raise ConfigError(
                f"{name}={value}: changes the numbers of a run; allowed: {allowed[0]}; type: unset {name}"
            )
    for flag in environment.get("XLA_FLAGS", "").split():
        if not flag.startswith("-"):  # XLA reads the first such word as the name of a file, and ignores the others
            raise ConfigError(f"XLA_FLAGS: {flag}: no flag; allowed: flags, such as --{REFUSED_FLAGS[0]}=false")
        name, _, value = flag.removeprefix("--").partition("=")
        if name in REFUSED_FLAGS and value.lower() not in _FALSE:
            raise ConfigError(f"XLA_FLAGS: {flag}: changes the numbers of a run; allowed: --{name}=false; take it out")


def recorded(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that are set and may change rounding or speed, for a run's manifest."""
    return {
        name: value
        for name, value in sorted(environment.items())
        if value and (name in RECORDED or name.startswith(RECORDED_PREFIXES))
    }
