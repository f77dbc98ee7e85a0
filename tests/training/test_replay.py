"""Chunk sampling and the ring, by hand-worked tables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.chunks import GAMMA, dataset

from dfp.plan.catalogue import load_catalogue
from dfp.runs.online_rows import OnlineRows
from dfp.training.replay import (
    Rows,
    append,
    chunks_at,
    grow_finals,
    live_rows,
    make_buffer,
    sample_chunks,
    with_next_action,
)


@pytest.mark.parametrize(
    ("first", "actions", "valid", "return_", "discount", "next_observation"),
    [
        # inside the first episode: the return holds both rewards, the chunk ends in state 2
        (0, [0.0, 0.1], [1, 1], -1 - 0.5, 0.25, 2),
        # ends with the first episode: success, so no bootstrap; s' is the episode's final state
        (1, [0.1, 0.2], [1, 1], -1 + 0.0, 0.0, 3),
        # starts at the last row and runs on: the second step is not valid, the return is not cut there
        (2, [0.2, 1.0], [1, 0], 0 - 0.5, 0.0, 11),
        # ends with the second episode, which the clock ended: bootstrap stays
        (3, [1.0, 0.9], [1, 1], -1 - 0.5, 0.25, 12),
    ],
)
def test_chunks_by_hand(first, actions, valid, return_, discount, next_observation):
    batch = chunks_at(make_buffer(dataset(), 5), jnp.array([first]), 2, GAMMA)
    np.testing.assert_allclose(batch.action[0], actions)
    np.testing.assert_array_equal(batch.valid[0], valid)
    np.testing.assert_allclose(batch.return_[0], return_)
    np.testing.assert_allclose(batch.discount[0], discount)
    np.testing.assert_array_equal(batch.next_observation[0], [next_observation])


def test_validity_of_a_longer_chunk():
    # From row 1: 1, 2 | 10, 11 |: everything after the first end is invalid, the second end included.
    batch = chunks_at(make_buffer(dataset(), 5), jnp.array([1]), 4, GAMMA)
    np.testing.assert_array_equal(batch.valid[0], [1, 1, 0, 0])
    np.testing.assert_allclose(batch.return_[0], -1 + 0 - 0.25 - 0.125)
    assert batch.discount[0] == 0.0  # the smallest mask of the chunk


def test_a_chunk_of_several_coordinates_is_ordered_by_step():
    data = dataset()._replace(actions=np.arange(10, dtype=np.float32).reshape(5, 2))  # of row i: 2 i, 2 i + 1
    buffer = make_buffer(data, 5)
    batch = chunks_at(buffer, jnp.array([1, 0]), 2, GAMMA)
    np.testing.assert_array_equal(batch.action, [[2, 3, 4, 5], [0, 1, 2, 3]])
    following = with_next_action(batch, buffer, live_rows(5, 5), jnp.array([3, 2]), 2)
    np.testing.assert_array_equal(following.next_action, [[6, 7, 8, 9], [4, 5, 6, 7]])


@pytest.mark.parametrize(("places", "capacity"), [(5, 5), (9, 6)])
def test_first_rows_are_uniform_over_what_has_a_whole_chunk(places, capacity):
    """Of a full buffer, and of one with room for a row more: a place without a row is not drawn."""
    buffer = make_buffer(dataset(), places)
    batch = sample_chunks(buffer, live_rows(5, capacity), jax.random.key(0), 4000, 2, GAMMA)
    first, counts = np.unique(batch.observation[:, 0], return_counts=True)
    np.testing.assert_array_equal(first, [0, 1, 2, 10])
    assert counts.min() > 900


def rows(values: list[tuple[float, int]], chunk: int = 2) -> Rows:
    """New transitions ``(state, final index or -1)``; the next state is state + 1."""
    count = len(values)
    packed = Rows(*(np.zeros((chunk, 1), np.float32) for _ in range(2)), *(np.zeros(chunk, np.float32),) * 2,
                  np.full(chunk, -1, np.int32), np.zeros((chunk, 1), np.float32))  # fmt: skip
    states = np.array([state for state, _ in values], np.float32)
    packed = packed._replace(reward=np.zeros(chunk, np.float32), mask=np.ones(chunk, np.float32))
    packed.observation[:count, 0] = states
    packed.next_observation[:count, 0] = states + 1
    packed.final[:count] = [final for _, final in values]
    return packed


def states_of(buffer, live) -> list[float]:
    numbers = np.arange(int(live.end - live.size), int(live.end)) % buffer.observation.shape[0]
    return [float(value) for value in buffer.observation[numbers, 0]]


def test_online_rows_follow_and_the_newest_next_state_is_there():
    physical = 9  # capacity 6, chunks of 2
    buffer = append(make_buffer(dataset(), physical), rows([(100, -1)]), jnp.int32(5), jnp.int32(1))
    live = live_rows(6, 6)
    assert states_of(buffer, live) == [0, 1, 2, 10, 11, 100]
    # the chunk (11, 100) ends in the newest row, whose next state no row holds yet
    batch = chunks_at(buffer, jnp.array([4]), 2, GAMMA)
    np.testing.assert_array_equal(batch.next_observation[0], [101])
    np.testing.assert_array_equal(batch.valid[0], [1, 0])


def test_after_the_ring_wraps_the_oldest_rows_are_gone():
    physical, capacity = 9, 6
    buffer = make_buffer(dataset(), physical)
    buffer = buffer._replace(final_observation=jnp.zeros((8, 1)).at[:2].set(buffer.final_observation))
    end = 5
    for values in ([(100, -1), (101, -1)], [(102, 2), (200, -1)], [(201, -1), (202, -1)]):
        buffer = append(buffer, rows(values), jnp.int32(end), jnp.int32(2))
        end += 2
    live = live_rows(end, capacity)
    assert states_of(buffer, live) == [100, 101, 102, 200, 201, 202]
    # numbers 5.. are states 100..: over the episode's end at 102, into the final observation table, and past the wrap
    batch = chunks_at(buffer, jnp.array([5, 6, 7, 9]), 2, GAMMA)
    np.testing.assert_array_equal(batch.next_observation[:, 0], [102, 103, 201, 203])
    np.testing.assert_array_equal(batch.valid, [[1, 1], [1, 1], [1, 0], [1, 1]])


def test_rows_stored_ahead_of_their_update_overwrite_nothing_that_is_live():
    physical, capacity = 9, 6
    buffer = append(make_buffer(dataset(), physical), rows([(100, -1), (101, -1)]), jnp.int32(5), jnp.int32(2))
    # The update of the first new row still sees the six rows that existed at its step.
    assert states_of(buffer, live_rows(6, capacity)) == [0, 1, 2, 10, 11, 100]
    assert states_of(buffer, live_rows(7, capacity)) == [1, 2, 10, 11, 100, 101]


def test_rows_beyond_the_count_are_left_out():
    before = make_buffer(dataset(), 9)
    after = append(before, rows([(100, 0), (101, 1)]), jnp.int32(5), jnp.int32(0))
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("count", [2, 7, 12])
def test_a_restart_rebuilds_the_ring(tmp_path, count):
    """Appending row by row and rebuilding from the file give the same buffer of nine places.

    After two online rows there is room left. Seven overwrite offline rows, and twelve overwrite online ones too.
    """
    task = load_catalogue().tasks["cube-single-task2"].spec.model_copy(update={"observation_size": 1, "action_size": 1})
    file = OnlineRows(tmp_path / "rows.bin", task)
    file.truncate(0)
    physical, end, finals = 9, 5, 2
    buffer = make_buffer(dataset(), physical, file)
    episodes = [(100, False), (101, True), (200, False), (201, False), (202, False), (203, True), (300, True)]
    episodes += [(400, False), (401, False), (402, True), (500, False), (501, False)]
    for state, last in episodes[:count]:
        final = np.array([state + 1.0]) if last else None
        file.add(np.array([state]), np.array([0.0]), 0.0, 1.0, final)
        buffer = append(buffer, rows([(state, finals if last else -1)]), jnp.int32(end), jnp.int32(1))
        end, finals = end + 1, finals + last
    records = file.flush()
    assert records == count + finals - 2
    again = OnlineRows(tmp_path / "rows.bin", task)
    again.truncate(records)
    assert again.episodes == finals - 2
    rebuilt = make_buffer(dataset(), physical, again)
    live = live_rows(end, 6)
    numbers = np.arange(int(live.end - live.size), int(live.end)) % physical
    for name in ("observation", "action", "reward", "mask", "final"):
        np.testing.assert_array_equal(getattr(buffer, name)[numbers], getattr(rebuilt, name)[numbers], err_msg=name)
    np.testing.assert_array_equal(buffer.final_observation[:finals], rebuilt.final_observation[:finals])


def test_records_after_the_checkpoint_are_forgotten(tmp_path):
    task = load_catalogue().tasks["cube-single-task2"].spec
    file = OnlineRows(tmp_path / "rows.bin", task)
    for number in range(3):
        file.add(np.full(28, number), np.zeros(5), -1.0, 1.0, np.zeros(28) if number == 2 else None)
    assert file.flush() == 4
    file.truncate(2)
    np.testing.assert_array_equal(file.read()["observation"][:, 0], [0, 1])
    assert file.episodes == 0
    # What is made instead comes after those that are left; and a run that begins again leaves none.
    for kept, states in ((2, [0, 1, 9]), (0, [9])):
        file.truncate(kept)
        file.add(np.full(28, 9), np.zeros(5), -1.0, 1.0, None)
        assert file.flush() == len(states)
        np.testing.assert_array_equal(file.read()["observation"][:, 0], states)
        assert file.problem(len(states), file.checksum) is None
        assert (tmp_path / "rows.bin").stat().st_size == len(states) * 36 * 4


def test_room_for_finished_episodes_grows():
    buffer = make_buffer(dataset(), 9)
    grown = grow_finals(buffer)
    assert grown.final_observation.shape == (4, 1)
    np.testing.assert_array_equal(grown.final_observation[:2], buffer.final_observation)
