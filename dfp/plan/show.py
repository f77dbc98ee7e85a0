"""``dfp run show``: the exact command of a run, every number of its spec, and where each comes from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from pydantic import BaseModel

from dfp.plan.catalogue import CATALOGUE, Catalogue, MethodEntry, agent_for, load_config, matches
from dfp.runs.same_spec import leaves
from dfp.spec import AgentConfig, ConfigError, RunSpec


class Setting(NamedTuple):
    """One setting of a spec."""

    key: str  #: dotted, as in the spec
    value: Any
    paper: Any  #: the value in config/config.yaml, if it differs; None if it is the same or not set there
    source: str  #: what the setting is, and the table, release or choice that it comes from


def settings(spec: RunSpec, catalogue: Catalogue) -> Iterator[Setting]:
    """Every setting of the spec, in its order."""
    paper = load_config(CATALOGUE / "config.yaml").model_dump(mode="json") | {"agent": _nearest(spec, catalogue)}
    if spec.online is None:  # in the paper, too, an offline phase has no online part
        paper["online"] = None
    overrides = dict(_overrides(spec, catalogue))
    for key, value, source in _leaves(spec):
        expected: Any = paper
        for part in key.split("."):
            expected = expected.get(part) if isinstance(expected, dict) else None
        differs = expected is not None and json.dumps(expected) != json.dumps(value)
        source = f"{source} Here: {overrides[key]}." if key in overrides else source
        yield Setting(key, value, expected if differs else None, source)


def _nearest(spec: RunSpec, catalogue: Catalogue) -> dict[str, Any]:
    """Settings on this task of the method with the same agent that differs least from the run; empty without one."""
    own = spec.agent.model_dump(mode="json")
    tuned = [agent for _, agent in _tuned(spec, catalogue) if agent.name == spec.agent.name]
    dumps = [one.model_dump(mode="json") for agent in tuned for one in (agent, agent.offline_phase())]
    return min(dumps, key=lambda one: sum(one.get(key) != value for key, value in own.items()), default={})


def _tuned(spec: RunSpec, catalogue: Catalogue) -> Iterator[tuple[MethodEntry, AgentConfig]]:
    """Every method whose settings are valid on the run's task, with these settings."""
    for key, entry in catalogue.methods.items():
        with contextlib.suppress(ConfigError):
            yield entry, agent_for(key, spec.task.key, catalogue)


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
    """Dotted agent settings that an override sets on this task, and its source, for methods that equal the run's."""
    for entry, agent in _tuned(spec, catalogue):
        if spec.agent not in (agent, agent.offline_phase()):
            continue
        for override in entry.overrides:
            if matches(spec.task.key, override.tasks):
                yield from ((name, override.source) for name, _ in leaves(override.agent, "agent."))


def describe(spec: RunSpec, catalogue: Catalogue, pasted: str) -> str:
    """The page that the command prints."""
    whole = list(settings(spec, catalogue))
    differ = [setting for setting in whole if setting.paper is not None]
    lines = [pasted, "", f"digest {spec.digest()}", ""]
    lines += ["Differs from the paper's configuration:" if differ else "As in the paper's configuration."]
    lines += [f"  {one.key} = {_shown(one.value)}   [paper: {_shown(one.paper)}]" for one in differ]
    lines += ["", "The whole:"]
    for setting in whole:
        lines += [f"{setting.key} = {_shown(setting.value)}", f"    {setting.source}"]
    return "\n".join(lines)


def _shown(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
