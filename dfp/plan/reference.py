"""``config/README.md`` and ``config/schema/``: every key of every configuration file, written from the typed code.

``python -m dfp.plan.reference`` rewrites both. ``tests/workflow/test_docs.py`` and ``tests/plan/test_schema.py`` fail
if they differ from the code.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, TypeAdapter

from dfp.files import pipe_table, read_text, write_atomically
from dfp.plan.catalogue import CATALOGUE, Config, ExperimentEntry, MethodEntry, TaskEntry, load_catalogue
from dfp.spec import AgentConfig, agent_module

TARGET = CATALOGUE / "README.md"
SCHEMAS = CATALOGUE / "schema"
MODELINE = "# yaml-language-server: $schema=schema/"
Schema = dict[str, Any]

INTRO = """\
<!-- Written by `python -m dfp.plan.reference` from its schemas (spec.py, catalogue.py, agents/). Edit those. -->
# Configuration

Three catalogues list the tasks, methods and experiments. One configuration file says what to run. No other file is
merged into it.
An unknown key is an error at every level, and the error names the allowed ones.

The first line of each file names its JSON schema in [`schema/`](schema). An editor with a YAML language server, such as
VS Code with Red Hat's YAML extension, completes and checks the keys while you type.
"""
BOUNDS = {
    "exclusiveMinimum": "> {}",
    "minimum": "≥ {}",
    "exclusiveMaximum": "< {}",
    "maximum": "≤ {}",
    "minItems": "at least {} of them",
}


def config_reference() -> str:
    """The whole page."""
    return "\n".join([INTRO, *_files(), *_configuration(), *_catalogues(), *_agents()])


def _files() -> list[str]:
    """A table of the files, each with the comment that it begins with."""
    rows = [(f"[`{path.name}`]({path.name})", _opening(read_text(path))) for path in sorted(CATALOGUE.glob("*.yaml"))]
    rows.append(("[`paper/`](paper)", "The numbers that the paper prints, as CSV, in percent."))
    return ["## Files", "", *pipe_table(("file", "what it is"), rows, text=2), ""]


def _configuration() -> list[str]:
    text = "What `dfp` reads with `--config` and Snakemake with `--configfile`."
    return ["## A configuration file", "", text, "", *_sections("Config", Config.model_json_schema())]


def _catalogues() -> list[str]:
    text = "Each file maps keys to entries. A key is the name on the command line; a task's `key` is filled in from it."
    lines = ["## The catalogues", "", text, ""]
    for model in (TaskEntry, MethodEntry, ExperimentEntry):
        lines += _sections(model.__name__, model.model_json_schema())
    return lines


def _agents() -> list[str]:
    """One section per agent that a method of the catalogue names, then what the agents' settings are made of."""
    text = "The settings below `agent` of a method: `name` picks the agent, every other key has a default."
    lines, parts = ["## Agents", "", text, ""], {}
    for name in dict.fromkeys(entry.agent["name"] for entry in load_catalogue().methods.values()):
        schema = agent_module(name).Config.model_json_schema()
        parts |= schema.pop("$defs", {})
        lines += _sections(f"Agent {name}", schema, AgentConfig)
    for name, schema in parts.items():
        lines += _sections(name, schema)
    return lines


def _sections(title: str, schema: Schema, base: type[BaseModel] | None = None) -> list[str]:
    """A heading and a table for the schema, then for every schema inside it. ``base`` describes inherited keys."""
    inside = schema.get("$defs", {})
    inherited = base.model_json_schema()["properties"] if base else {}
    rows = []
    for key, node in schema["properties"].items():
        default = "required" if key in schema.get("required", ()) else _code(node.get("default"))
        what = _text(node) or _text(inherited.get(key, {})) or _text(inside.get(_reference(node), {}))
        rows.append((f"`{key}`", _type(node), _range(node), default, what))
    header = ("key", "type", "range", "default", "what it is")
    lines = [f"### {title}", "", _text(schema), "", *pipe_table(header, rows, text=len(header)), ""]
    for name, part in inside.items():
        lines += _sections(name, part)
    return lines


def _type(node: Schema) -> str:
    if "$ref" in node:
        name = _reference(node)
        return f"[{name}](#{name.lower()})"
    if "const" in node:
        return _code(node["const"])
    if "enum" in node:
        return " or ".join(map(_code, node["enum"]))
    if "anyOf" in node:
        return " or ".join(map(_type, node["anyOf"]))
    if "items" in node:
        return f"list of {_type(node['items'])}"
    kind = node.get("type", "any")
    return "mapping" if kind == "object" else kind


def _range(node: Schema) -> str:
    """The bounds of the value, of its elements, or of whichever of its alternatives has any."""
    own = [text.format(node[name]) for name, text in BOUNDS.items() if name in node]
    inside = [_range(part) for part in (*node.get("anyOf", ()), *([node["items"]] if "items" in node else ()))]
    return ", ".join(filter(None, [*inside, *own]))


def _reference(node: Schema) -> str:
    """Name of the schema that the node, or each of its elements, has; empty if it has none."""
    return node.get("items", node).get("$ref", "").rsplit("/", 1)[-1]


def _text(node: Schema) -> str:
    """The first paragraph of a description, in Markdown's backquotes."""
    return " ".join(node.get("description", "").split("\n\n")[0].split()).replace("``", "`")


def _opening(text: str) -> str:
    lines = []
    for line in text.splitlines():
        if line.startswith(MODELINE):
            continue
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def _code(value: Any) -> str:
    return f"`{json.dumps(value)}`"


# --------------------------------------------------------------------------- schemas for editors


def json_schemas() -> dict[str, str]:
    """File name and text of the JSON schema of each kind of file: a configuration, and the three catalogues."""
    tasks = TypeAdapter(dict[str, TaskEntry]).json_schema()
    tasks["$defs"]["TaskSpec"]["required"].remove("key")  # filled in from the entry's own key
    schemas = {
        "config": Config.model_json_schema(),
        "tasks": tasks,
        "methods": _methods_schema(),
        "experiments": TypeAdapter(dict[str, ExperimentEntry]).json_schema(),
    }
    return {f"{name}.json": f"{json.dumps(schema, indent=1, ensure_ascii=False)}\n" for name, schema in schemas.items()}


def _methods_schema() -> Schema:
    """The schema of ``methods.yaml``. The agent's ``name`` decides which settings ``agent`` and the overrides may have.

    No setting is required, because a setting may be given only for some tasks.
    """
    schema = TypeAdapter(dict[str, MethodEntry]).json_schema()
    parts, cases = schema["$defs"], []
    for name in dict.fromkeys(entry.agent["name"] for entry in load_catalogue().methods.values()):
        agent = agent_module(name).Config.model_json_schema()
        parts |= agent.pop("$defs", {})
        agent.pop("required", None)
        parts[f"Agent-{name}"] = agent
        settings = {"properties": {"agent": {"$ref": f"#/$defs/Agent-{name}"}}}
        named = {"properties": {"name": {"const": name}}, "required": ["name"]}
        cases.append({
            "if": {"properties": {"agent": named}},
            "then": {"properties": settings["properties"] | {"overrides": {"items": settings}}},
        })  # fmt: skip
    parts["MethodEntry"]["allOf"] = cases
    return schema


if __name__ == "__main__":
    print(write_atomically(TARGET, config_reference()))
    for file, text in json_schemas().items():
        print(write_atomically(SCHEMAS / file, text))
