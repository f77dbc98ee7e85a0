"""The configurations of ``config/``: their folder, the paper's as loaded, and the keys of each."""

from pathlib import Path
from typing import Any

import yaml

from dfp.plan.catalogue import load_catalogue, load_config

CONFIG = Path(__file__).resolve().parents[2] / "config"
PAPER = load_config(CONFIG / "config.yaml")
CATALOGUE = load_catalogue()


def content(name: str = "smoke") -> dict[str, Any]:
    """The keys of a configuration as its file has them."""
    return yaml.safe_load((CONFIG / f"{name}.yaml").read_text())
