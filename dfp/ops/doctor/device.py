"""The device that JAX finds, and whether it computes."""

from __future__ import annotations

import os

import numpy as np

from dfp.ops.doctor.findings import Finding

SIZE = 1024  # of the matrices: enough for a GPU's real kernels
TOLERANCE = 0.05  # of the largest entry: tensor cores round their inputs to 10 bits


def check_device(gpu: bool) -> list[Finding]:
    """Multiply two matrices on JAX's default device, and compare with NumPy.

    Args:
      gpu: whether a GPU is wanted: a fallback to the CPU is an error then, as in the workflow's training jobs.
    """
    try:
        import jax

        device = jax.devices()[0]
        error = product_error()
    except Exception as problem:  # whatever a broken driver raises is the finding
        platforms = f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']}: " if "JAX_PLATFORMS" in os.environ else ""
        # JAX says nothing if a requested platform is not installed.
        text = f"{platforms}{' '.join(str(problem).split()) or 'no such platform is installed'}"[:300]
        return [Finding("device", "error", f"JAX finds no device: {text}", "no job can train", _remedy())]
    return device_findings(device.platform, device.device_kind, error, gpu)


def product_error() -> float:
    """Largest deviation of a product of two random matrices from NumPy's, over its largest entry."""
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(2, SIZE, SIZE)).astype(np.float32)
    expected = left @ right
    return float(np.abs(np.asarray(jnp.asarray(left) @ jnp.asarray(right)) - expected).max() / np.abs(expected).max())


def device_findings(platform: str, kind: str, error: float, gpu: bool) -> list[Finding]:
    """Findings about a device whose product deviates by ``error``."""
    findings = []
    if gpu and platform == "cpu":
        findings.append(
            Finding(
                "device",
                "error",
                f"no GPU: JAX fell back to the CPU ({kind})",
                "a fall-back burns the allocation: a run of the paper takes days on a CPU",
                _remedy(),
            )
        )
    if not error < TOLERANCE:  # also if it is NaN
        text = f"{platform} {kind}: a matrix product is off by {error:.1%} of its largest entry"
        findings.append(Finding("device", "error", text, "whatever is trained there is wrong", "use another node"))
    return findings or [Finding("device", "ok", f"{platform}: {kind}; a product of {SIZE} x {SIZE} is right")]


def _remedy() -> str:
    return "nvidia-smi; uv sync --inexact --extra cuda12    (or cuda13), then this again on a GPU node"
