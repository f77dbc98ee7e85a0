"""``python -m dfp show``: the exact command of a run, every number of its spec, and where each comes from."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from dfp.catalogue import CATALOGUE, Catalogue, agent_for, load_config
from dfp.run_folder import RUN
from dfp.spec import ConfigError, RunSpec, parse_spec


class Setting(NamedTuple):
    """One number of a spec."""

    key: str  # dotted, as in the spec
    value: Any
    paper: Any  # what config/config.yaml has, where that is something else; none: the same, or not its business
    source: str  # what it is, and the table, release or choice that it comes from


def read_run(folder: Path) -> tuple[RunSpec, str]:
    """The spec of a run that was started in ``folder``, and the command that started its last attempt.

    Raises :class:`ConfigError` where no run was started.
    """
    try:
        content = json.loads((folder / RUN).read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no run was started here ({RUN} is missing)") from None
    return parse_spec(json.dumps(content["spec"])), shlex.join(content["command"])


def settings(spec: RunSpec, catalogue: Catalogue) -> Iterator[Setting]:
    """Every number of the spec, in its order."""
    paper = load_config(CATALOGUE / "config.yaml").model_dump(mode="json")
    overrides = dict(_overrides(spec, catalogue))
    for key, value, source in _leaves(spec):
        expected: Any = paper
        for part in key.split("."):
            expected = expected.get(part) if isinstance(expected, dict) else None
        differs = expected is not None and json.dumps(expected) != json.dumps(value)
        source = f"{source} Here: {overrides[key]}." if key in overrides else source
        yield Setting(key, value, expected if differs else None, source)


def _leaves(model: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, str]]:
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        key = f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from _leaves(value, f"{key}.")
        else:
            plain = list(value) if isinstance(value, tuple) else value
            yield key, plain, field.description or "What to run: from the configuration."


def _overrides(spec: RunSpec, catalogue: Catalogue) -> Iterator[tuple[str, str]]:
    """Agent settings that differ on this task, and why: of the methods whose settings are these."""
    for key, entry in catalogue.methods.items():
        try:
            agent = agent_for(key, spec.task.key, catalogue)
        except ConfigError:  # not tuned for this task
            continue
        if spec.agent not in (agent, agent.offline_phase()):
            continue
        for override in entry.overrides:
            if any(fnmatch.fnmatchcase(spec.task.key, pattern) for pattern in override.tasks):
                yield from ((name, override.source) for name in _flat(override.agent, "agent."))


def _flat(tree: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def describe(spec: RunSpec, catalogue: Catalogue, pasted: str) -> str:
    """The page that the command prints."""
    lines = [pasted, "", f"digest {spec.digest()}", ""]
    for setting in settings(spec, catalogue):
        value = json.dumps(setting.value, ensure_ascii=False)
        paper = "" if setting.paper is None else f"   [the paper's configuration: {json.dumps(setting.paper)}]"
        lines += [f"{setting.key} = {value}{paper}", f"    {setting.source}"]
    return "\n".join(lines)
