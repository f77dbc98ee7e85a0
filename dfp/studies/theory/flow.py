"""Eq. 6: particles that follow the field lose KL to its target."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.integrate import solve_ivp

from dfp.studies.theory.check import Check
from dfp.studies.theory.example import IMPROVED, POLICY, Gaussian, field, quantiles_of

FLOW_BANDWIDTH = 0.2
TIMES = np.linspace(0.0, 1.0, 51)


def flow(start: Array, target: Array, times: np.ndarray, bandwidth: float = FLOW_BANDWIDTH) -> np.ndarray:
    """Particles that follow the field over ``h^2``, Eq. 6 with KDE scores, by Heun's method: ``[n] -> [T, n]``."""

    def velocity(x: Array) -> Array:
        return field(x, target, x, bandwidth) / bandwidth**2

    def step(x: Array, dt: Array) -> tuple[Array, Array]:
        first = velocity(x)
        x = x + 0.5 * dt * (first + velocity(x + dt * first))
        return x, x

    _, path = jax.jit(lambda start, dts: jax.lax.scan(step, start, dts))(start, jnp.asarray(np.diff(times)))
    return np.concatenate([np.asarray(start)[None], np.asarray(path)])


@functools.cache
def flow_of_gaussians() -> tuple[np.ndarray, np.ndarray]:
    """``KL(q_t || p)`` along the flow from pi_theta to pi+: of 501 particles, and of the exact solution, ``[T]`` each.

    A normal q stays one. With ``p = N(m, v)``: ``mean' = -(mean - m) / (v + h^2)`` and
    ``std' = std (1 / (std^2 + h^2) - 1 / (v + h^2))``.
    """
    particles = flow(quantiles_of(POLICY, 501), quantiles_of(IMPROVED, 1001), TIMES)
    measured = [Gaussian(float(x.mean()), float(x.var())).kl(IMPROVED) for x in particles]
    width, h2 = IMPROVED.variance + FLOW_BANDWIDTH**2, FLOW_BANDWIDTH**2

    def change(_: float, state: np.ndarray) -> list[float]:
        mean, std = state
        return [-(mean - IMPROVED.mean) / width, std * (1.0 / (std**2 + h2) - 1.0 / width)]

    begin = [POLICY.mean, POLICY.variance**0.5]
    solution = solve_ivp(change, (TIMES[0], TIMES[-1]), begin, t_eval=TIMES, rtol=1e-9, atol=1e-12)
    exact = [Gaussian(mean, std**2).kl(IMPROVED) for mean, std in solution.y.T]
    return np.array(measured), np.array(exact)


def flow_kl() -> Check:
    """Eq. 6: particles moved by the field lose as much KL as the exact flow does."""
    measured, exact = flow_of_gaussians()
    return Check("KL(q_t ‖ π⁺) at t = 1", "Eqs. 6, 8", "=", float(exact[-1]), float(measured[-1]), 5e-4)


def flow_dissipates() -> Check:
    """Eq. 6: ``KL(q_t || p)`` falls in every step; the smallest fall is that of the exact flow."""
    measured, exact = (float(-np.diff(divergences).max()) for divergences in flow_of_gaussians())
    return Check("smallest fall of KL(q_t ‖ π⁺) in a step", "Eq. 6", "=", exact, measured, 5e-5)


@functools.cache
def flow_to_two_modes() -> tuple[np.ndarray, float]:
    """``KL(q_t || p)``, both KDE, along the flow to half ``N(-1, 0.04)``, half ``N(1, 0.04)``: ``[T]``.

    Besides, the share of the 500 particles that ends at the right mode.
    """
    mode = quantiles_of(Gaussian(0.0, 0.04), 250)
    target = jnp.concatenate([mode - 1.0, mode + 1.0])
    particles = flow(quantiles_of(Gaussian(0.2, 0.25), 500), target, TIMES)
    grid = np.linspace(-3.0, 3.0, 601)

    def density(samples: np.ndarray) -> np.ndarray:
        kernel = np.exp(-((grid[:, None] - samples) ** 2) / (2.0 * FLOW_BANDWIDTH**2)).mean(axis=1)
        return kernel / kernel.sum()

    p = density(np.asarray(target))
    divergences = [float(np.sum(q * np.log(q / p))) for q in map(density, particles)]
    return np.array(divergences), float((particles[-1] > 0.0).mean())


def mass_divergence(share: float) -> float:
    """KL of two modes with masses ``share`` and ``1 - share`` in (0, 1) from two with 1/2 each, each mode right."""
    return float(np.log(2.0) + share * np.log(share) + (1.0 - share) * np.log1p(-share))


def flow_dissipates_to_two_modes() -> Check:
    """Eq. 6 for a target with two modes. The flow of the KDEs is not exactly the gradient flow of a KL there."""
    rise = np.diff(flow_to_two_modes()[0]).max()
    return Check("largest rise of KL in a step, two modes", "Eq. 6", "<=", 0.0, float(rise), 1e-6)


def flow_keeps_the_masses() -> Check:
    """Why KL stops above 0: each mode gets its shape, but no particle crosses from one mode to the other.

    65 % of the particles (``Phi(0.4)``) begin nearer to the right mode and stay there. The KL of the masses is left.
    """
    divergences, share = flow_to_two_modes()
    expected = mass_divergence(share)
    note = f"{share:.1%} of the particles end at the right mode, which has half of the target"
    return Check("KL left, two modes = KL of their masses", "Eq. 6", "=", expected, float(divergences[-1]), 2e-4, note)
