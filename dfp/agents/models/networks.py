"""Actor and critic bodies (Table 5).

Shapes: ``S`` state, ``D`` flattened action chunk, ``E`` ensemble members; leading dimensions are free.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

# Glorot uniform, as in Q-chunking and FQL.
KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
RESNET_EXPANSION = 4


class MLP(nn.Module):
    """``depth`` hidden GELU layers of ``width`` units, optionally with a LayerNorm after each; a linear output."""

    width: int
    depth: int
    outputs: int
    layer_norm: bool = False

    @nn.compact
    def __call__(self, inputs: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        x = inputs
        for _ in range(self.depth):
            x = nn.gelu(nn.Dense(self.width, kernel_init=KERNEL_INIT)(x))
            if self.layer_norm:
                x = nn.LayerNorm()(x)
        return nn.Dense(self.outputs, kernel_init=KERNEL_INIT)(x)


class ResNet(nn.Module):
    """IDQL's LN-ResNet. A residual block is LayerNorm, a layer four times as wide, GELU, a layer back to ``width``."""

    width: int
    blocks: int
    outputs: int

    @nn.compact
    def __call__(self, inputs: Float[Array, "*rows inputs"]) -> Float[Array, "*rows outputs"]:
        x = nn.Dense(self.width, kernel_init=KERNEL_INIT)(inputs)
        for _ in range(self.blocks):
            y = nn.gelu(nn.Dense(RESNET_EXPANSION * self.width, kernel_init=KERNEL_INIT)(nn.LayerNorm()(x)))
            x = x + nn.Dense(self.width, kernel_init=KERNEL_INIT)(y)
        return nn.Dense(self.outputs, kernel_init=KERNEL_INIT)(nn.gelu(x))


@dataclasses.dataclass(frozen=True)
class JointNetwork:
    """A body that reads several inputs side by side, ``F(s, x, t) = body(concat[s, x, t])``.

    A generator reads state and noise. A velocity field or a noise prediction also reads a time, a mean velocity two.
    ``functools.partial(network, params, observation)`` is the function of the other inputs at fixed states.
    """

    body: nn.Module
    widths: tuple[int, ...]  #: widths of the inputs, in their order

    def init(self, key: Array) -> Any:
        return self.body.init(key, jnp.zeros((1, sum(self.widths))))

    def __call__(self, params: Any, *inputs: Float[Array, "*rows _"]) -> Float[Array, "*rows outputs"]:
        """The body's output for inputs of these ``widths``."""
        return self.body.apply(params, jnp.concatenate(inputs, axis=-1))  # pyright: ignore[reportReturnType]


class EnsembleCritic(nn.Module):
    """``E`` independent critics ``Q_e(s, a)``, layer-normalised: ``[..., S], [..., D] -> [E, ...]``."""

    width: int
    depth: int
    ensemble_size: int

    @nn.compact
    def __call__(
        self, observation: Float[Array, "*rows S"], action: Float[Array, "*rows D"]
    ) -> Float[Array, " E *rows"]:
        members = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType] flax's annotation leaves out None
            out_axes=0,
            axis_size=self.ensemble_size,
        )
        inputs = jnp.concatenate([observation, action], axis=-1)
        return members(self.width, self.depth, 1, layer_norm=True)(inputs)[..., 0]


def parameter_count(params: object) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
