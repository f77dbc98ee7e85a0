"""How far a run is from the paper's protocol."""

from __future__ import annotations

import functools
from typing import Any

from dfp.plan.catalogue import CATALOGUE, read_yaml

PAPER_SCALE = ""


def scale(spec: dict[str, Any], online: bool = True) -> str:
    """What differs between a run and ``config/paper/protocol.yaml``; :data:`PAPER_SCALE` if nothing does.

    Steps, network, optimiser, online phase and data source. Not compared: the settings of the method, which are its
    entry's in ``config/methods.yaml``, the seed, and the number of evaluation episodes, which widens the scatter over
    seeds and moves no mean. With ``online`` false, the settings of the online phase do not count.
    """
    different = []
    for section, settings in protocol().items():
        mine = spec.get(section)
        if section == "online" and (mine is None or not online):
            continue
        for key, value in settings.items():
            found = (mine or {}).get(key, "missing")
            if found != value:
                different.append(f"{section}.{key} {found} (paper: {value})")
    return ", ".join(different) or PAPER_SCALE


@functools.cache
def protocol() -> dict[str, dict[str, Any]]:
    """What ``config/paper/protocol.yaml`` asks of a run, by section of its spec."""
    return read_yaml(CATALOGUE / "paper" / "protocol.yaml")
