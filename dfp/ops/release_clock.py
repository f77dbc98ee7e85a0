"""Times updates of the authors' release. A program of its own: the release's Python runs it, and it imports no dfp.

``python release_clock.py FOLDER ROWS SETTINGS PHASE``: ``FOLDER`` is a checkout of the release, ``ROWS`` an npz file of
transitions, ``SETTINGS`` JSON with ``agent``, the name of an agent of the release, and ``config``, entries of its
configuration. It answers each line of standard input, a number of updates, with the seconds that they took.

An update is what the release's own loop makes: draw a batch of chunks on the host, then ``agent.update(batch)``.
"""

import importlib
import json
import sys
import time
from pathlib import Path

import numpy as np


def configuration(folder: Path, settings: dict) -> dict:
    """The release's defaults for an agent, its YAML file for it, then ``settings``."""
    import yaml

    name = settings["agent"]
    config = importlib.import_module(f"agents.{name}").get_config()
    file = yaml.safe_load((folder / "config" / "agent" / f"{name}.yaml").read_text())
    for changes in ({key: value for key, value in file.items() if key != "agent_name"}, settings["config"]):
        for key, value in changes.items():
            config[key] = tuple(value) if isinstance(value, list) else value
    return config


def main(folder: Path, rows: Path, settings: dict, phase: str) -> None:
    """Answer until standard input ends."""
    sys.path.insert(0, str(folder))
    import jax

    config = configuration(folder, settings)
    agents = importlib.import_module("agents").agents
    columns = np.load(rows)
    dataset = importlib.import_module("utils.datasets").Dataset.create(**{name: columns[name] for name in columns})
    example = dataset.sample(())
    agent = agents[settings["agent"]].create(0, example["observations"], example["actions"], config)
    if phase == "online" and hasattr(agent, "switch_config_to_online"):
        agent = agent.switch_config_to_online()
    for line in sys.stdin:
        started = time.perf_counter()
        for _ in range(int(line)):
            batch = dataset.sample_sequence(config["batch_size"], config["horizon_length"], config["discount"])
            agent, _ = agent.update(batch)
        jax.block_until_ready(agent.network.params)
        print(time.perf_counter() - started, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4])
