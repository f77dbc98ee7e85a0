"""The count of matrix products, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from support.small_agents import make

from dfp.agents import bfn, dfp, mvp
from dfp.training.flops import act_flop, matrix_flop, update_flop

# small_agents: S = 3, D = H * A = 4, B = 8 states, E = 2 critics, two hidden layers of 16, N' = 4 actions to choose
# from; the defaults of top-K: N = 16 candidates, K = 4 positives; DFP's G = 8 samples.
# A row through [i, 16, 16, o] makes 2 (16 i + 256 + 16 o). Its backward pass makes that twice, but not the gradient of
# the input: 2 * 16 i less.
CRITIC = 2 * 2 * (16 * 7 + 256 + 16)  # of s and a, both critics: 1,536
CRITIC_AND_BACK = 3 * CRITIC - 2 * 2 * 16 * 7  # 4,160


@pytest.fixture
def two():
    return jnp.ones((2, 3)), jnp.ones((3, 5))


def test_a_product_and_a_batch_of_products(two):
    a, b = two
    assert matrix_flop(jnp.matmul, a, b) == 2 * 2 * 3 * 5
    batched = jnp.ones((7, 2, 3)), jnp.ones((7, 3, 5))
    assert matrix_flop(jnp.matmul, *batched) == 7 * 2 * 2 * 3 * 5
    assert matrix_flop(lambda x: jnp.einsum("bij,bkj->ik", x, x), batched[0]) == 2 * (7 * 3) * 2 * 2


def test_products_inside_loops_blocks_and_functions_count_as_often_as_they_run(two):
    a, b = two
    square = jnp.ones((3, 3))
    assert matrix_flop(lambda x: jax.lax.fori_loop(0, 10, lambda i, y: y @ x, x), square) == 10 * 54
    assert matrix_flop(lambda x: jax.lax.map(lambda row: row @ b, x), jnp.ones((4, 2, 3))) == 4 * 60
    assert matrix_flop(jax.jit(lambda x: jax.nn.relu(jax.jit(jnp.matmul)(x, b))), a) == 60
    assert matrix_flop(jax.checkpoint(lambda x: x @ b), a) == 60


def test_a_product_that_nothing_reads_is_no_work(two):
    def gradient_of_the_weights(a, b):
        return jax.grad(lambda a, b: jnp.sum(a @ b), argnums=(0, 1))(a, b)[1]

    assert matrix_flop(gradient_of_the_weights, *two) == 60


def test_an_unknown_number_of_runs_is_refused(two):
    a, b = two
    with pytest.raises(ValueError, match="while"):
        matrix_flop(lambda n: jax.lax.fori_loop(0, n, lambda i, y: y + jnp.sum(a @ b), 0.0), 3)
    with pytest.raises(ValueError, match="cond"):
        matrix_flop(lambda yes: jax.lax.cond(yes, lambda: a @ b, lambda: jnp.zeros((2, 5))), True)


def test_an_update_of_dfp_by_hand():
    actor = 2 * (16 * 7 + 256 + 16 * 4)  # 864
    target = 4 * (actor + CRITIC) + CRITIC
    samples = 8 * (3 * actor - 2 * 16 * 7)
    candidates = 16 * (actor + CRITIC)
    fields = 2 * 8 * (8 + 1) * 4 + 2 * 8 * (8 + 4) * 4  # 8 samples: weights times targets, 8 negatives and positives
    by_hand = 8 * (target + CRITIC_AND_BACK + samples + candidates + fields)
    assert by_hand == 591_872
    assert update_flop(make(dfp)) == by_hand


def test_an_update_of_dfp_offline_by_hand():
    # No candidates, and the field of one positive: 591,872 - 8 * (38,400 + 2 * 8 * 12 * 4)
    assert update_flop(make(dfp, top_k=None)) == 278_528


def test_an_update_of_mvp_by_hand():
    actor = 2 * (16 * 9 + 256 + 16 * 4)  # 928: s, z, r and t
    target = 4 * (actor + CRITIC) + CRITIC
    and_back = 3 * actor - 2 * 16 * 9
    imitation = (and_back + actor) + and_back  # a pass with its tangent; the constraint's pass
    candidates = 16 * (actor + CRITIC)
    by_hand = 8 * (target + CRITIC_AND_BACK + (1 + 4) * imitation + candidates)
    assert by_hand == 676_608
    assert update_flop(make(mvp)) == by_hand


def test_acting_by_hand():
    assert act_flop(make(dfp)) == 4 * (864 + CRITIC)
    flow = 2 * (16 * 8 + 256 + 16 * 4)  # of s, x and t
    assert act_flop(make(bfn)) == 4 * (10 * flow + CRITIC) == 41_984
    assert act_flop(make(bfn, best_of=1)) == 10 * flow  # nothing to choose: no critic
