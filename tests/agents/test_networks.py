"""The bodies of Table 5: what layers they have, and how their parameters begin."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dfp.agents.models.networks import MLP, EnsembleCritic, ResNet


def test_a_critic_has_a_layer_norm_after_each_hidden_layer_and_an_actor_has_none():
    critic = EnsembleCritic(8, 2, 3).init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)))["params"][
        "VmapMLP_0"
    ]
    assert sorted(critic) == ["Dense_0", "Dense_1", "Dense_2", "LayerNorm_0", "LayerNorm_1"]
    assert [critic[f"Dense_{layer}"]["kernel"].shape for layer in range(3)] == [(3, 5, 8), (3, 8, 8), (3, 8, 1)]
    actor = MLP(8, 2, 4).init(jax.random.key(0), jnp.zeros((1, 3)))["params"]
    assert sorted(actor) == ["Dense_0", "Dense_1", "Dense_2"]
    assert [actor[f"Dense_{layer}"]["kernel"].shape for layer in range(3)] == [(3, 8), (8, 8), (8, 4)]


def test_the_critics_of_an_ensemble_begin_apart():
    critic = EnsembleCritic(8, 1, 2).init(jax.random.key(0), jnp.zeros((1, 3)), jnp.zeros((1, 2)))["params"][
        "VmapMLP_0"
    ]
    for layer in ("Dense_0", "Dense_1"):
        first, second = critic[layer]["kernel"]
        assert not np.any(first == second)


def test_layers_begin_by_glorots_uniform_and_zero_biases():
    """Uniform within ``sqrt(6 / (in + out))``: of 30 x 90 numbers the largest is close to 0.2236."""
    layer = MLP(90, 1, 1).init(jax.random.key(0), jnp.zeros((1, 30)))["params"]["Dense_0"]
    largest = np.max(np.abs(layer["kernel"]))
    assert 0.22 < largest <= np.sqrt(6 / 120)
    np.testing.assert_allclose(np.std(layer["kernel"]), np.sqrt(6 / 120 / 3), rtol=0.03)
    assert not np.any(layer["bias"])


LAYERS = {
    "actor": (MLP(90, 2, 30), [(30, 90), (90, 90), (90, 30)]),
    "residual": (ResNet(40, 1, 60), [(30, 40), (40, 160), (160, 40), (40, 60)]),
}


@pytest.mark.parametrize("body", LAYERS)
def test_every_layer_begins_by_glorots_uniform_the_last_one_too(body):
    """The largest of more than a thousand numbers is within 3 % of the bound, and none is beyond it."""
    network, sizes = LAYERS[body]
    params = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 30)))["params"]
    assert sum(name.startswith("Dense") for name in params) == len(sizes)
    for number, (inside, outside) in enumerate(sizes):
        kernel, bound = params[f"Dense_{number}"]["kernel"], np.sqrt(6 / (inside + outside))
        assert kernel.shape == (inside, outside)
        assert 0.97 * bound < np.max(np.abs(kernel)) <= bound


def test_every_layer_of_every_critic_begins_by_glorots_uniform():
    """Bounds of the layers of one critic, 20 x 90, 90 x 90 and 90 x 1, whatever the size of the ensemble."""
    init = jax.jit(EnsembleCritic(90, 2, 10).init)
    critics = init(jax.random.key(0), jnp.zeros((1, 15)), jnp.zeros((1, 5)))
    for layer, bound in enumerate([np.sqrt(6 / 110), np.sqrt(6 / 180), np.sqrt(6 / 91)]):
        kernel = critics["params"]["VmapMLP_0"][f"Dense_{layer}"]["kernel"]
        assert 0.97 * bound < np.max(np.abs(kernel)) <= bound
        np.testing.assert_allclose(np.std(kernel, axis=(1, 2)), bound / np.sqrt(3), rtol=0.3)


def test_a_residual_block_adds_to_its_input():
    """Of width 1 with positive weights: a block's layer norm gives its bias, so each adds 2 gelu(3) to its input."""
    network = ResNet(1, 2, 1)
    params = network.init(jax.random.key(0), jnp.zeros((1, 1)))["params"]
    ones = jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if leaf.ndim == 1 else jnp.ones_like(leaf), params)
    for block in range(2):  # LayerNorm of one number is its bias; four hidden units, of which each passes on a half
        ones[f"LayerNorm_{block}"]["bias"] = jnp.array([3.0])
        ones[f"Dense_{1 + 2 * block + 1}"]["kernel"] = jnp.full((4, 1), 0.5)

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    found = network.apply({"params": ones}, jnp.array([[5.0]]))
    np.testing.assert_allclose(found, [[gelu(5.0 + 2 * 2 * gelu(3.0))]], rtol=1e-6)
