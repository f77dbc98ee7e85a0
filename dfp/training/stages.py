"""The stages: ``pretrain`` and ``offline`` (updates on a dataset), ``finetune`` (one update per environment step).

Every random draw is a function of the run's seed, the name of its stream and a step or episode number, so that nothing
random has to be saved: straight through and killed-and-resumed give the same bits on a CPU, and evaluating more
often changes nothing else.
"""

from pathlib import Path

from dfp.spec import RunSpec
from dfp.training.offline import OfflineLoop, Shards
from dfp.training.online import OnlineLoop
from dfp.training.rollout import RemoteEnvironment
from dfp.training.session import Options, Session, TrainingError, Unfinished

__all__ = ["Options", "TrainingError", "Unfinished", "finetune", "pretrain"]


def pretrain(spec: RunSpec, path: Path, options: Options) -> None:
    """The offline phase, or a run of offline RL: gradient steps on the dataset, evaluated every so many of them.

    Leaves ``agent.npz``, ``metrics.csv`` and ``manifest.json`` in ``path``; returns at once if they are there.

    Raises:
      TrainingError: a term is not finite, or a CPU would need too long.
      Unfinished: the deadline came first.
    """
    with Session(spec, path, options, spec.training.offline_steps) as session:
        if not session.begin():
            return
        with Shards(spec, options.data_dir) as shards:
            session.confirm_data(shards.sha256)
            loop = OfflineLoop(session, shards)
            while loop.step < session.total:
                loop.block()
                session.load_simulators()
        session.finish(loop.state)


def finetune(spec: RunSpec, path: Path, pretrained: Path, options: Options) -> None:
    """The online phase: one environment step, one gradient step, from the state that ``pretrained`` ended with.

    Leaves ``agent.npz``, ``metrics.csv`` and ``manifest.json`` in ``path``; returns at once if they are there.

    Raises:
      TrainingError: a term is not finite, or a CPU would need too long.
      CheckpointError: ``pretrained`` holds no finished offline phase of this spec.
      Unfinished: the deadline came first.
    """
    assert spec.online is not None
    with Session(spec, path, options, spec.online.steps, pretrained) as session:
        if not session.begin():
            return
        with RemoteEnvironment(spec.task) as environment:
            with Shards(spec, options.data_dir) as shards:
                loop = OnlineLoop(session, environment, pretrained, shards.at_switch())
                session.confirm_data(shards.sha256)
            while loop.step < session.total:
                loop.episode()
                session.load_simulators()
        session.finish(loop.state)
