"""The paper's equations in plain NumPy, in double precision, with a loop for every index.

Nothing here is imported from ``dfp``, and JAX is not used: the tests beside this file compare the two. Noise, times and
row numbers are arguments, so that a test can draw them as the code under test does.

Parameters are nested dicts of arrays. Losses are functions of them that also accept complex numbers: :func:`gradient`
and :func:`derivative_along` differentiate by a complex step, ``f'(x) = Im f(x + i e) / e``, which has no rounding
error. What the paper puts under a stop-gradient is therefore computed outside the loss, or from real parts.

Shapes: ``B`` states, ``G`` generated samples, ``K`` positives, ``M`` extra negatives, ``N`` candidates, ``D = H * A``
coordinates of a chunk, ``S`` state, ``E`` critics.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

Tree = Any  # nested dicts of arrays
STEP = 1e-30

# --------------------------------------------------------------------------- derivatives and trees


def places(tree: Tree, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """The paths of all arrays of a tree."""
    if not isinstance(tree, dict):
        return [path]
    return [place for name in tree for place in places(tree[name], (*path, name))]


def at(tree: Tree, path: tuple[str, ...]) -> Any:
    for name in path:
        tree = tree[name]
    return tree


def combined(function: Callable[..., Any], *trees: Tree) -> Tree:
    """``function`` of the arrays at each place."""
    if isinstance(trees[0], dict):
        return {name: combined(function, *(tree[name] for tree in trees)) for name in trees[0]}
    return function(*map(np.asarray, trees))


def gradient(loss: Callable[[Tree], Any], params: Tree) -> Tree:
    """The gradient of a loss with respect to every number of ``params``, one complex step each."""
    moved = combined(lambda leaf: leaf.astype(complex), params)
    found = combined(lambda leaf: np.zeros(leaf.shape), params)
    for place in places(params):
        array, slot = at(moved, place), at(found, place)
        for index in np.ndindex(array.shape):
            array[index] += 1j * STEP
            slot[index] = np.imag(loss(moved)) / STEP
            array[index] = array[index].real
    return found


def derivative_along(function: Callable[..., Any], points: Sequence[Any], directions: Sequence[Any]) -> Any:
    """The directional derivative of ``function(*points)``, a Jacobian-vector product."""
    moved = [point + 1j * STEP * np.asarray(way) for point, way in zip(points, directions, strict=True)]
    return np.imag(function(*moved)) / STEP


def clip(x: Any) -> Any:
    """To [-1, 1]; a value outside has no derivative."""
    return np.where(np.real(x) > 1.0, 1.0, np.where(np.real(x) < -1.0, -1.0, x))


# --------------------------------------------------------------------------- networks (Table 5)


def gelu(x: Any) -> Any:
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def mlp(params: Tree, inputs: Any) -> Any:
    """Dense, GELU, LayerNorm if there are parameters for it; the last layer is linear: ``[n, in] -> [n, out]``."""
    while len(params) == 1:
        (params,) = params.values()
    layers = sum(name.startswith("Dense") for name in params)
    x = inputs
    for layer in range(layers):
        x = x @ params[f"Dense_{layer}"]["kernel"] + params[f"Dense_{layer}"]["bias"]
        if layer == layers - 1:
            return x
        x = gelu(x)
        if f"LayerNorm_{layer}" in params:
            norm = params[f"LayerNorm_{layer}"]
            centred = x - x.mean(axis=1, keepdims=True)
            deviation = np.sqrt((centred * centred).mean(axis=1, keepdims=True) + 1e-6)
            x = centred / deviation * norm["scale"] + norm["bias"]
    raise AssertionError("a network has layers")


def critics(params: Tree, observation: Any, action: Any) -> Any:
    """``Q_e(s, a)``: ``[n, S], [n, D] -> [E, n]``; the members are the first axis of every parameter."""
    inputs = np.concatenate([observation, action], axis=1)
    count = len(at(params, places(params)[0]))
    members = [combined(lambda leaf, e=e: leaf[e], params) for e in range(count)]
    return np.stack([mlp(member, inputs)[:, 0] for member in members])


def side_by_side(*parts: Any) -> Any:
    return np.concatenate(parts, axis=1)


# --------------------------------------------------------------------------- the field (Eq. 3) and its loss (Eq. 4)


class Field(NamedTuple):
    velocity: np.ndarray  # [B, G, D] in units of `scale`
    scale: float
    strength: float
    distance: float


def length(vector: np.ndarray) -> float:
    return float(np.sqrt((vector * vector).sum()))


def root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt((values * values).mean()))


def targets_of(samples: np.ndarray, positives: np.ndarray, extra: np.ndarray | None) -> list[np.ndarray]:
    """Of each state: its samples, its extra negatives, its positives, ``[T, D]``."""
    states = range(len(samples))
    return [
        np.concatenate([samples[b], np.zeros((0, samples.shape[2])) if extra is None else extra[b], positives[b]])
        for b in states
    ]


def all_distances(samples: np.ndarray, targets: list[np.ndarray]) -> np.ndarray:
    return np.array([[[length(x - y) for y in targets[b]] for x in samples[b]] for b in range(len(samples))])


def mean_shift(x: np.ndarray, targets: Sequence[np.ndarray], h: float) -> np.ndarray:
    """``E[k(x, y) (y - x)] / E[k(x, y)]`` with the Gaussian kernel, at one point."""
    squares = np.array([length(y - x) ** 2 for y in targets])
    kernel = np.exp(-(squares - squares.min()) / (2.0 * h * h))  # the ratio does not see a common factor
    total = sum(weight * (y - x) for weight, y in zip(kernel, targets, strict=True))
    return np.asarray(total / kernel.sum())


def mean_shift_field(
    samples: np.ndarray, positives: np.ndarray, bandwidths: Sequence[float], extra: np.ndarray | None = None
) -> Field:
    """Eq. 3; the negatives of a sample are the state's other samples; several bandwidths are averaged."""
    batch, generated, _ = samples.shape
    velocity = np.zeros_like(samples)
    for b in range(batch):
        for i in range(generated):
            negatives = [samples[b, j] for j in range(generated) if j != i]
            negatives += [] if extra is None else list(extra[b])
            for h in bandwidths:
                field = mean_shift(samples[b, i], list(positives[b]), h) - mean_shift(samples[b, i], negatives, h)
                velocity[b, i] += field / len(bandwidths)
    distance = all_distances(samples, targets_of(samples, positives, extra)).mean()
    return Field(velocity, 1.0, root_mean_square(velocity), float(distance))


def joint_field(
    samples: np.ndarray, positives: np.ndarray, bandwidths: Sequence[float], extra: np.ndarray | None = None
) -> Field:
    """The released drifting algorithm, step by step.

    The unit of length is the mean distance over the whole batch. A pair's weight is the geometric mean of its two
    softmaxes, over targets and over samples, of ``-distance / h``.
    """
    batch, generated, size = samples.shape
    targets = targets_of(samples, positives, extra)
    negatives = len(targets[0]) - positives.shape[1]
    distances = all_distances(samples, targets)
    mean = float(distances.mean())
    scale = max(mean / np.sqrt(size), 1e-3)
    velocity, strengths = np.zeros_like(samples), []
    for h in bandwidths:
        force = np.zeros_like(samples)
        for b in range(batch):
            logits = -distances[b] / max(mean, 1e-3) / h
            for i in range(generated):
                logits[i, i] -= 100.0 / h  # a sample does not see itself
            over_targets = np.exp(logits - logits.max(axis=1, keepdims=True))
            over_targets /= over_targets.sum(axis=1, keepdims=True)
            over_samples = np.exp(logits - logits.max(axis=0, keepdims=True))
            over_samples /= over_samples.sum(axis=0, keepdims=True)
            weight = np.sqrt(np.maximum(over_targets * over_samples, 1e-6))
            for i, x in enumerate(samples[b]):
                towards = [w * (y - x) / scale for w, y in zip(weight[i], targets[b], strict=True)]
                pull, push = sum(towards[negatives:]), sum(towards[:negatives])
                force[b, i] = weight[i, :negatives].sum() * pull - weight[i, negatives:].sum() * push
        strengths.append(root_mean_square(force))
        velocity += force / max(strengths[-1], 1e-4)
    return Field(velocity, scale, float(np.mean(strengths)), mean)


FIELDS = {"joint": joint_field, "mean_shift": mean_shift_field}


def drift_loss(samples: Any, field: Field, weights: np.ndarray | None = None) -> Any:
    """Eq. 4, mean over coordinates: ``|x - sg(x + V)|^2`` in units of the field's scale."""
    x = samples / field.scale
    error = x - (np.real(x) + field.velocity)
    return (error * error * (1.0 if weights is None else weights[:, None, :])).mean()


# --------------------------------------------------------------------------- chunks


class Row(NamedTuple):
    """One stored transition."""

    observation: np.ndarray  # [S]
    action: np.ndarray  # [A]
    reward: float
    task_ended: bool
    episode_ended: bool  # for any reason
    next_observation: np.ndarray  # [S]


class Chunks(NamedTuple):
    observation: np.ndarray  # [B, S]
    action: np.ndarray  # [B, D]
    valid: np.ndarray  # [B, H]
    return_: np.ndarray  # [B]
    discount: np.ndarray  # [B]
    next_observation: np.ndarray  # [B, S]


def cut(rows: Sequence[Row], firsts: Sequence[int], chunk: int, gamma: float) -> Chunks:
    """The chunks that begin at the rows ``firsts``; a chunk may cross an episode's end."""
    found = []
    for first in firsts:
        steps = rows[first : first + chunk]
        valid, running = [], 1.0
        for step in steps:
            valid.append(running)
            running = 0.0 if step.episode_ended else running
        found.append(
            (
                steps[0].observation,
                np.concatenate([step.action for step in steps]),
                np.array(valid),
                sum(gamma**j * step.reward for j, step in enumerate(steps)),
                0.0 if any(step.task_ended for step in steps) else gamma**chunk,
                steps[-1].next_observation,
            )
        )
    return Chunks(*(np.array(column, float) for column in zip(*found, strict=True)))


def over_coordinates(valid: np.ndarray, size: int) -> np.ndarray:
    """``[B, H] -> [B, D]``: the coordinates of a step are neighbours."""
    return np.array([[step for step in row for _ in range(size // len(row))] for row in valid])


# --------------------------------------------------------------------------- choosing by the critic


def candidates_of(sample: Callable, actor: Tree, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """``[B, S], [B, N, D] -> [B, N, D]`` in [-1, 1]."""
    count = noise.shape[1]
    return np.stack(
        [clip(sample(actor, np.tile(observation[b], (count, 1)), noise[b])) for b in range(len(observation))]
    )


def worth(critic: Tree, observation: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The ensemble's mean at every candidate: ``[B, S], [B, N, D] -> [B, N]``."""
    count = actions.shape[1]
    return np.stack(
        [critics(critic, np.tile(observation[b], (count, 1)), actions[b]).mean(axis=0) for b in range(len(observation))]
    )


def best_of(sample: Callable, actor: Tree, critic: Tree, observation: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """``a* = argmax_j Q(s, a_j)`` over N' samples of the live policy: ``[B, D]``."""
    actions = candidates_of(sample, actor, observation, noise)
    if noise.shape[1] == 1:
        return actions[:, 0]
    values = worth(critic, observation, actions)
    return np.stack([actions[b, int(np.argmax(values[b]))] for b in range(len(actions))])


def top_k(
    sample: Callable, old: Tree, critic: Tree, observation: np.ndarray, noise: np.ndarray, positives: int
) -> np.ndarray:
    """Eq. 15: the K candidates of pi_old with the largest Q, best first: ``[B, K, D]``."""
    actions = candidates_of(sample, old, observation, noise)
    values = worth(critic, observation, actions)
    return np.stack([actions[b, np.argsort(-values[b])[:positives]] for b in range(len(actions))])


# --------------------------------------------------------------------------- the critic (Eq. 1)


def td_target(
    sample: Callable, actor: Tree, critic: Tree, target_critic: Tree, batch: Chunks, noise: np.ndarray
) -> np.ndarray:
    """``y = sum gamma^j r_j + gamma^H mask Q_target(s', a')``: the live critic picks, the target critic values."""
    next_action = best_of(sample, actor, critic, batch.next_observation, noise)
    next_value = critics(target_critic, batch.next_observation, next_action).mean(axis=0)
    return batch.return_ + batch.discount * next_value


def critic_loss(critic: Tree, target: np.ndarray, batch: Chunks) -> Any:
    """The squared error over members and chunks; a chunk whose last step is past the episode's end weighs nothing."""
    error = critics(critic, batch.observation, batch.action) - target
    return (batch.valid[:, -1] * error * error).mean()


# --------------------------------------------------------------------------- DFP


def one_pass(actor: Tree, observation: Any, noise: Any) -> Any:
    """Eq. 9: ``a = f(eps, s)``. Also the student of FQL."""
    return mlp(actor, side_by_side(observation, noise))


def dfp_samples(actor: Tree, observation: np.ndarray, noise: np.ndarray) -> Any:
    """``N_gen`` samples of every state: ``[B, S], [B, G, D] -> [B, G, D]``."""
    return np.stack(
        [clip(one_pass(actor, np.tile(observation[b], (len(noise[b]), 1)), noise[b])) for b in range(len(observation))]
    )


class DFP(NamedTuple):
    """The settings of the loss."""

    bandwidths: tuple[float, ...]
    weight: float  # lambda
    normalisation: str = "joint"
    mask_invalid: bool = False


def dfp_loss(
    actor: Tree, batch: Chunks, noise: np.ndarray, favourites: np.ndarray | None, settings: DFP
) -> tuple[Any, Any, Any]:
    """``L_BC + lambda L_topK``, L_BC and L_topK (Eqs. 18, 16): two sets of positives for one set of samples."""
    samples = dfp_samples(actor, batch.observation, noise)
    weights = over_coordinates(batch.valid, batch.action.shape[1]) if settings.mask_invalid else None
    field = FIELDS[settings.normalisation]
    cloning = drift_loss(samples, field(np.real(samples), batch.action[:, None, :], settings.bandwidths), weights)
    if favourites is None:
        return cloning, cloning, 0.0
    improvement = drift_loss(samples, field(np.real(samples), favourites, settings.bandwidths), weights)
    return cloning + settings.weight * improvement, cloning, improvement


# --------------------------------------------------------------------------- MVP


def mean_velocity(actor: Tree, observation: Any, z: Any, r: Any, t: Any) -> Any:
    """``u(s, z, r, t)``; ``r`` and ``t`` are ``[n, 1]``."""
    return mlp(actor, side_by_side(observation, z, r, t))


def mvp_action(actor: Tree, observation: Any, noise: Any) -> Any:
    """``a = eps - u(s, eps, 0, 1)``."""
    ones = np.ones((len(noise), 1))
    return noise - mean_velocity(actor, observation, noise, 0.0 * ones, ones)


def ordered_times(normals: np.ndarray, mean: float = -0.4, std: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """``r <= t`` from two standard normals: ``[2, n, 1] -> [n, 1], [n, 1]``."""
    times = 1.0 / (1.0 + np.exp(-(mean + std * normals)))
    return times.min(axis=0), times.max(axis=0)


def mvp_loss(
    actor: Tree, fixed: Tree, observation: np.ndarray, action: np.ndarray, weights: np.ndarray,
    draws: tuple[np.ndarray, np.ndarray], ivc_weight: float,
) -> Any:  # fmt: skip
    """``L_MF + lambda_IVC L_IVC`` of one action per state.

    Args:
      actor: parameters that are differentiated.
      fixed: the same parameters under the stop-gradient.
      observation, action, weights: ``[n, S]``, ``[n, D]``, ``[n, D]``.
      draws: the noise ``[n, D]`` and two normals for the times ``[2, n, 1]``.
      ivc_weight: lambda_IVC.
    """
    noise, normals = draws
    r, t = ordered_times(normals)
    velocity = noise - action
    z_t = (1.0 - t) * action + t * noise
    z_r = (1.0 - r) * action + r * noise
    du_dt = derivative_along(
        lambda z, t: mean_velocity(fixed, observation, z, r, t), (z_t, t), (velocity, np.ones_like(t))
    )
    error = mean_velocity(actor, observation, z_t, r, t) - (velocity - (t - r) * du_dt)
    constraint = mean_velocity(actor, observation, z_r, r, r) - velocity
    return (weights * error * error).mean() + ivc_weight * (weights * constraint * constraint).mean()


# --------------------------------------------------------------------------- flows: BFN and FQL


def flow_velocity(actor: Tree, observation: Any, x: Any, t: Any) -> Any:
    return mlp(actor, side_by_side(observation, x, t))


def flow_loss(actor: Tree, batch: Chunks, noise: np.ndarray, t: np.ndarray) -> Any:
    """``|v(s, x_t, t) - (a - x_0)|^2`` at ``x_t = (1 - t) x_0 + t a``, over the valid steps."""
    error = flow_velocity(actor, batch.observation, (1.0 - t) * noise + t * batch.action, t) - (batch.action - noise)
    return (over_coordinates(batch.valid, batch.action.shape[1]) * error * error).mean()


def flow_action(actor: Tree, observation: Any, noise: Any, steps: int = 10) -> Any:
    """Euler from the noise at t = 0 to the action at t = 1."""
    x = noise
    for step in range(steps):
        x = x + flow_velocity(actor, observation, x, np.full((len(x), 1), step / steps)) / steps
    return x


def fql_loss(
    actor: Tree,
    fixed: Tree,
    critic: Tree,
    batch: Chunks,
    draws: tuple[np.ndarray, np.ndarray, np.ndarray],
    alpha: float,
) -> tuple[Any, Any, Any, Any]:
    """``L_BC + alpha L_distillation - mean Q``, and the three.

    ``actor`` and ``fixed`` are ``{"flow": ..., "student": ...}``, with gradient and without. ``draws`` are the flow's
    noise ``[B, D]`` and time ``[B, 1]``, and the student's noise ``[B, D]``.
    """
    noise, t, z = draws
    cloning = flow_loss(actor["flow"], batch, noise, t)
    action = one_pass(actor["student"], batch.observation, z)
    error = action - clip(flow_action(fixed["flow"], batch.observation, z))
    distillation = (error * error).mean()
    value = critics(critic, batch.observation, clip(action)).mean()
    return cloning + alpha * distillation - value, cloning, distillation, value


# --------------------------------------------------------------------------- learning


def average(new: Tree, old: Tree, rate: float) -> Tree:
    """``rate * new + (1 - rate) * old``: Polyak's target critic, and the EMA that is pi_old."""
    return combined(lambda new, old: rate * new + (1.0 - rate) * old, new, old)


class Learner(NamedTuple):
    """Parameters, their averages, and Adam's moments."""

    actor: Tree
    critic: Tree
    target_critic: Tree
    old: Tree | None  # pi_old
    first: Tree  # of {"actor": ..., "critic": ...}
    second: Tree
    steps: int


def learner(actor: Tree, critic: Tree) -> Learner:
    """Before the first update: the target critic and pi_old are copies, the moments are zero."""
    zeros = combined(np.zeros_like, {"actor": actor, "critic": critic})
    return Learner(actor, critic, copy.deepcopy(critic), copy.deepcopy(actor), zeros, copy.deepcopy(zeros), 0)


def adam(params: Tree, gradients: Tree, first: Tree, second: Tree, steps: int, rate: float) -> tuple[Tree, Tree, Tree]:
    """One step of Adam with its usual constants; ``steps`` counts this one."""
    first = combined(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
    second = combined(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradients)
    moved = combined(
        lambda p, m, v: p - rate * (m / (1 - 0.9**steps)) / (np.sqrt(v / (1 - 0.999**steps)) + 1e-8),
        params, first, second,
    )  # fmt: skip
    return moved, first, second


class Rates(NamedTuple):
    learning: float
    target: float  # Polyak
    ema: float | None  # of pi_old; None: the method has none


def learn(
    state: Learner, actor_loss: Callable[[Tree], Any], critic_loss: Callable[[Tree], Any], rates: Rates
) -> Learner:
    """Update theta and phi, each by its own loss, then both averages towards what they have just become."""
    gradients = {"actor": gradient(actor_loss, state.actor), "critic": gradient(critic_loss, state.critic)}
    params, first, second = adam(
        {"actor": state.actor, "critic": state.critic}, gradients, state.first, state.second, state.steps + 1,
        rates.learning,
    )  # fmt: skip
    old = None if rates.ema is None or state.old is None else average(params["actor"], state.old, rates.ema)
    target_critic = average(params["critic"], state.target_critic, rates.target)
    return Learner(params["actor"], params["critic"], target_critic, old, first, second, state.steps + 1)


# --------------------------------------------------------------------------- statistics


def sample_std(values: Sequence[float]) -> float:
    """With ``n - 1``."""
    mean = sum(values) / len(values)
    return (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5


def interquartile_mean(values: Sequence[float]) -> float:
    """The mean without the lowest and the highest quarter of the values, each quarter rounded down."""
    left_out = len(values) // 4
    kept = sorted(values)[left_out : len(values) - left_out]
    return sum(kept) / len(kept)


def area_under(steps: Sequence[float], values: Sequence[float]) -> float:
    """The integral of the line through the points, over the length of the axis."""
    area = 0.0
    for left in range(len(steps) - 1):
        area += (steps[left + 1] - steps[left]) * (values[left] + values[left + 1]) / 2.0
    return area / (steps[-1] - steps[0])
