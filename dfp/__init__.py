"""Drifting Field Policy, reproduced. ``dfp.load_policy(folder)`` gives a trained policy to your own code."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    # On demand: the workflow imports this package to plan, and JAX takes seconds to load.
    if name == "load_policy":
        from dfp.policies.policy import load_policy

        return load_policy
    raise AttributeError(f"module 'dfp' has no attribute '{name}'")
