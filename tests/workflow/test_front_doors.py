"""Files that other tools read: GitHub, editors, type checkers, the Snakemake catalogue, readers of the changelog."""

import json
import re
import tomllib
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))  # without config.yml


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_an_issue_form_has_what_github_requires(form: Path):
    content = yaml.safe_load(form.read_text())
    assert {"name", "description", "body"} <= set(content)
    assert all(item["type"] == "textarea" and item["attributes"]["label"] for item in content["body"])
    ids = [item["id"] for item in content["body"]]
    assert len(set(ids)) == len(ids)


def test_there_is_a_form_for_a_fault_and_one_for_a_result():
    assert [form.name for form in FORMS] == ["bug.yml", "result.yml"]


def test_the_package_tells_type_checkers_that_it_is_typed():
    assert files("dfp").joinpath("py.typed").is_file()


def test_the_catalogue_file_has_the_keys_of_the_catalogue():
    usage = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text())["usage"]
    assert set(usage) == {"mandatory-flags", "software-stack-deployment", "report"}
    assert set(usage["software-stack-deployment"]) == {"conda", "singularity", "singularity+conda"}
    assert usage["report"] is True
    assert (ROOT / "config" / "README.md").is_file()  # the catalogue shows it


def test_changelog_and_citation_agree_with_the_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    kinds = set(re.findall(r"^### (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_development_container_has_the_python_and_the_set_up_of_the_project():
    content = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert f"python:{(ROOT / '.python-version').read_text().strip()}-" in content["image"]
    contributing = (ROOT / "CONTRIBUTING.md").read_text()
    assert all(command in contributing for command in content["postCreateCommand"].split(" && "))
