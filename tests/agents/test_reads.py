"""Which networks each loss and each policy reads: the live ones, their averages, or neither.

A table by method, as its paper or its release has it. It needs no numbers: what a result cannot depend on is not in
its traced program.
"""

import jax
import pytest
from jax.interpreters import partial_eval
from support.small_agents import B, H, make
from support.small_offline_agents import SETTINGS, chunks

from dfp.agents import bfn, dfp, fql, mvp
from dfp.agents.offline import bc, cac, fawac, fbrac, idql, ifql, iql, rebrac, srpo

ROWS = jax.eval_shape(chunks)
KEY = jax.eval_shape(lambda: jax.random.key(0))
KEYS = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), B))

# Method: its agent, then what the actor's gradient, the critic's gradient and the policy read besides the parameters
# that they train. `anchor` is pi_old of the methods with top-K, and the average actor or teacher of the others.
TABLE = {
    # The live critic ranks pi_old's candidates. The live critic chooses the next action, the target critic values it.
    "DFP": (make(dfp), "anchor critic", "actor critic target_critic", "actor critic"),
    "DFP w/o top-K": (make(dfp, top_k=None), "", "actor critic target_critic", "actor critic"),
    "MVP": (make(mvp, top_k=None), "", "actor critic target_critic", "actor critic"),
    "MVP w/ top-K": (make(mvp), "anchor critic", "actor critic target_critic", "actor critic"),
    "QC-BFN": (make(bfn), "", "actor critic target_critic", "actor critic"),
    # The student acts; the flow is trained and distilled in the actor's own loss.
    "QC-FQL": (make(fql, alpha=3.0), "critic", "actor.student target_critic", "actor.student"),
    "BC": (make(bc, chunk=H), "", "", "actor"),
    # V learns the expectile of the target critics, Q learns r + gamma V, the advantage is of the live Q and V.
    "IQL": (make(iql, chunk=H, alpha=2.0), "critic.q critic.v", "critic.v target_critic", "actor"),
    "IFQL": (make(ifql, chunk=H), "", "critic.v target_critic", "actor critic.q"),
    "IDQL": (make(idql, chunk=H), "", "critic.v target_critic", "anchor target_critic"),
    "SRPO": (make(srpo, chunk=H), "target_critic", "critic.v target_critic", "actor.policy"),
    "ReBRAC": (make(rebrac, chunk=H, **SETTINGS[rebrac]), "critic", "anchor target_critic", "actor"),
    # The teacher draws the samples of the TD target; executed is one of ten samples, by the target critics' values.
    "CAC": (make(cac, chunk=H, **SETTINGS[cac]), "anchor critic", "anchor target_critic", "actor target_critic"),
    # V(s) is the value of the policy's own action, a constant in the loss.
    "FAWAC": (make(fawac, chunk=H, **SETTINGS[fawac]), "actor critic", "actor target_critic", "actor"),
    "FAWAC, value: regression": (
        make(fawac, chunk=H, value="regression", **SETTINGS[fawac]),
        "critic.q critic.v", "actor target_critic", "actor",
    ),
    "FBRAC": (make(fbrac, chunk=H, **SETTINGS[fbrac]), "critic", "actor target_critic", "actor"),
}  # fmt: skip


def reads(function, state, *arguments) -> str:
    """The parts of ``state`` that the result of ``function(state, *arguments)`` depends on."""
    program = jax.make_jaxpr(function)(state, *arguments).jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    places = [place for place, _ in jax.tree_util.tree_flatten_with_path((state, *arguments))[0]]
    return " ".join(sorted({name(place) for place, is_used in zip(places, used, strict=True) if is_used} - {""}))


def name(place) -> str:
    """``critic.v`` of a leaf of the state; empty of another argument's."""
    argument, *path = place
    if argument.idx:
        return ""
    part = path[1].key if len(path) > 1 and isinstance(path[1], jax.tree_util.DictKey) else "params"
    return path[0].name if part == "params" else f"{path[0].name}.{part}"


@pytest.mark.parametrize("method", TABLE)
def test_each_loss_and_the_policy_read_these_networks_and_no_other(method):
    agent, actor, critic, policy = TABLE[method]
    state = agent.state_shape()

    def actor_gradient(state, parameters, rows, key):
        return jax.grad(lambda parameters: agent.actor_loss(parameters, state, rows, key)[0])(parameters)

    def critic_gradient(state, parameters, rows, key):
        return jax.grad(lambda parameters: agent.critic_loss(parameters, state, rows, key)[0])(parameters)

    found = (
        reads(actor_gradient, state, state.actor, ROWS, KEY),
        reads(critic_gradient, state, state.critic, ROWS, KEY),
        reads(agent.sample_actions, state, ROWS.observation, KEYS),
    )
    assert found == (actor, critic, policy)
