"""robosuite's arm under ``OSC_POSE``, bit for bit, without computations that robosuite repeats in each substep.

One control step is 25 substeps of physics. In each of them robosuite looks up every site and joint by name, and
computes each Jacobian up to three times, that of the fixed base twice, and limits and origins that never change. This
takes 0.19 ms a substep, beside 0.03 ms of physics. This module has only the controller's own mathematics. It calls
robosuite's own compiled functions on arrays of the same layout, so the bits are the same. A step takes a third of the
time (tests/tasks/test_robomimic.py).
"""
# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled functions come without stubs.)

from __future__ import annotations

import importlib
from typing import Any

import mujoco
import numpy as np


class Arm:
    """The first robot of a simulator: a Panda under ``OSC_POSE``, in world coordinates and with a fixed impedance."""

    def __init__(self, simulator: Any) -> None:
        """Make one after every reset of ``simulator``, which makes new controllers and maybe a new model."""
        robot = simulator.robots[0]
        self._model, self._data = simulator.sim.model._model, simulator.sim.data._data
        self._arm, self._fingers = robot.part_controllers["right"], robot.part_controllers["right_gripper"]
        self._gripper = robot.gripper["right"]
        self._joints = _range(self._arm.qvel_index)
        self._positions = _range(self._arm.qpos_index)
        self._arm_actuators, self._finger_actuators = (
            _range(robot._ref_actuators_indexes_dict[part]) for part in ("right", "right_gripper")
        )
        self._arm_limits, self._finger_limits = (
            self._model.actuator_ctrlrange[part].T for part in (self._arm_actuators, self._finger_actuators)
        )
        self._site = self._model.site(self._arm.ref_name).id
        self._mathematics = importlib.import_module("robosuite.utils.control_utils")

    def step(self, action: np.ndarray, substeps: int) -> None:
        """Move by ``action`` [7], and change the simulation as robosuite's ``step`` does."""
        model, data, arm, fingers = self._model, self._data, self._arm, self._fingers
        mujoco.mj_step1(model, data)
        begun = arm.new_update
        arm.set_goal(action[:6])
        fingers.set_goal(self._gripper.format_action(action[6:]))
        data.ctrl[self._finger_actuators] = _within(fingers.run_controller(), *self._finger_limits)
        # An episode's first torques depend on the state in which the controller was made, before the fingers opened.
        torques = self._torques() if begun else arm.run_controller()
        arm.new_update = True  # the next goal starts from where the hand is then
        for substep in range(substeps):
            if substep > 0:
                mujoco.mj_step1(model, data)
                torques = self._torques()
            data.ctrl[self._arm_actuators] = _within(torques, *self._arm_limits)
            mujoco.mj_step2(model, data)

    def _torques(self) -> np.ndarray:
        """robosuite/controllers/parts/arm/osc.py::OperationalSpaceController.run_controller, [7]."""
        model, data, arm, joints = self._model, self._data, self._arm, self._joints
        moves, turns = np.zeros((2, 3, model.nv))
        mujoco.mj_jacSite(model, data, moves, turns, self._site)
        velocity, spin = np.dot(moves, data.qvel), np.dot(turns, data.qvel)
        moves, turns = moves[:, joints].copy(), turns[:, joints].copy()
        jacobian = np.concatenate([moves, turns])
        mass = np.empty((model.nv, model.nv))
        mujoco.mj_fullM(model, mass, data.qM)
        mass = mass[joints, joints].copy(order="F")
        rotation = data.site_xmat[self._site].reshape(3, 3)
        force = (arm.goal_pos - data.site_xpos[self._site]) * arm.kp[:3] - velocity * arm.kd[:3]
        torque = self._mathematics.orientation_error(arm.goal_ori, rotation) * arm.kp[3:] - spin * arm.kd[3:]
        _, inertia, spin_inertia, nullspace = self._mathematics.opspace_matrices(mass, jacobian, moves, turns)
        wrench = np.concatenate([np.dot(inertia, force), np.dot(spin_inertia, torque)])
        position, speed = data.qpos[self._positions].copy(), data.qvel[joints].copy()
        rest = self._mathematics.nullspace_torques(mass, nullspace, arm.initial_joint, position, speed)
        return np.dot(jacobian.T, wrench) + data.qfrc_bias[joints] + rest


def _range(indices: list[int]) -> slice:
    """Consecutive ``indices`` as a slice, which takes a tenth of the time of an array of indices."""
    assert list(indices) == list(range(indices[0], indices[0] + len(indices)))
    return slice(indices[0], indices[0] + len(indices))


def _within(values: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    return np.minimum(np.maximum(values, low), high)  # a third of the time of numpy.clip
