"""The stages: ``pretrain`` and ``offline`` (updates on a dataset), ``finetune`` (one update per environment step).

Every random draw is a function of the run's seed, the name of its stream and a step or episode number. Checkpoints
therefore hold no random state. On a CPU a run that was killed and resumed ends with the bits of an uninterrupted one.
Evaluating more often does not change the weights.
"""

from pathlib import Path

from dfp.spec import RunSpec
from dfp.training.offline import OfflineLoop, Shards
from dfp.training.online import OnlineLoop
from dfp.training.rollout import RemoteEnvironment
from dfp.training.session import Options, Session, TrainingError, Unfinished

__all__ = ["Options", "TrainingError", "Unfinished", "finetune", "pretrain"]


def pretrain(spec: RunSpec, path: Path, options: Options) -> None:
    """The offline phase, or a run of offline RL: gradient steps on the dataset.

    Leaves ``agent.npz``, ``metrics.csv`` and ``manifest.json`` in ``path``; returns at once if they are there.

    Raises:
      TrainingError: a term is not finite, the data are not those of an earlier attempt, or a CPU would need too long.
      Unfinished: the deadline came first, or another job asks for the run.
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
    """The online phase, one gradient step per environment step, from the final state in the folder ``pretrained``.

    Files and errors are those of :func:`pretrain`, and:

    Raises:
      ConfigError: ``pretrained`` holds another run than the offline phase of this spec.
      CheckpointError: the offline phase is not finished, or its final state is damaged.
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
