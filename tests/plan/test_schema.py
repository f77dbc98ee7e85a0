"""The JSON schemas that editors read: equal to the code, and saying of a file what the code says of it."""

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from dfp.plan.catalogue import CATALOGUE
from dfp.plan.reference import MODELINE, SCHEMAS, json_schemas

FILES = sorted(CATALOGUE.glob("*.yaml"))


def errors(schema: str, content: object) -> list[str]:
    """What a schema finds wrong with a file's content, innermost reasons first."""
    validator = Draft202012Validator(json.loads((SCHEMAS / f"{schema}.json").read_text()))
    return [error.message for error in validator.iter_errors(content)]


def read(name: str) -> dict:
    return yaml.safe_load((CATALOGUE / f"{name}.yaml").read_text())


def test_the_schemas_are_those_of_the_code():
    written = {path.name: path.read_text() for path in SCHEMAS.iterdir()}
    assert written == json_schemas(), "the typed code changed: run `python -m dfp.plan.reference`"


def test_the_schemas_are_schemas():
    for text in json_schemas().values():
        Draft202012Validator.check_schema(json.loads(text))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_names_its_schema_and_fits_it(file: Path):
    text = file.read_text()
    named = text.splitlines()[0].removeprefix(MODELINE)
    assert named == (f"{file.stem}.json" if file.stem in ("tasks", "methods", "experiments") else "config.json")
    assert errors(named.removesuffix(".json"), yaml.safe_load(text)) == []
    assert not re.search(r"[:\[ ][\d_]*\d_\d", text), "1_000 is a number for Python, and text for an editor (YAML 1.2)"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"network": {"width": 0, "depth": 3, "ensemble_size": 2}}, "0 is less than or equal to the minimum of 0"),
        ({"sedes": [0]}, "'sedes' was unexpected"),
        ({"seeds": []}, "[] should be non-empty"),
        ({"data": {"source": "downlod"}}, "'downlod' is not one of ['download', 'generate']"),
    ],
)
def test_a_mistake_in_a_configuration_is_found(change, named):
    (found,) = errors("config", read("smoke") | change)
    assert named in found


@pytest.mark.parametrize(
    ("place", "settings", "named"),
    [
        ("agent", {"name": "dfp", "sampels": 8}, "'sampels' was unexpected"),
        ("agent", {"name": "dfp", "samples": 0}, "0 is less than or equal to the minimum of 0"),
        ("agent", {"name": "dfp", "alpha": 1.0}, "'alpha' was unexpected"),  # a setting of another agent
        (
            "overrides",
            [{"tasks": ["*"], "agent": {"bandwidth": [0.1]}, "source": "here"}],
            "'bandwidth' was unexpected",
        ),
    ],
)
def test_a_mistake_in_the_settings_of_an_agent_is_found(place, settings, named):
    methods = read("methods")
    methods["dfp"][place] = settings
    (found,) = errors("methods", methods)
    assert named in found


def test_the_settings_of_an_agent_from_elsewhere_are_its_own():
    entry = read("methods")["dfp"] | {"agent": {"name": "my_package.my_method", "spread": 0.1}, "overrides": []}
    assert errors("methods", {"my-method": entry}) == []
