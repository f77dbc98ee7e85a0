"""What the documentation says exists: keys, versions, links, commands, functions."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from dfp.__main__ import app
from dfp.catalogue import load_catalogue
from dfp.reference import TARGET, config_reference

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md")])
METHOD_PAGES = ROOT / "docs" / "methods"
COMMANDS = get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
CATALOGUE = load_catalogue()
ONLY_IN_CONDA = {"robomimic"}  # the cross-check of Robomimic's files; environment.yml says why
EXTRAS = ("robomimic", "slurm", "video")  # those that need no choice of hardware


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --------------------------------------------------------------------------- generated and pinned


def test_configuration_reference_is_current():
    assert TARGET.read_text() == config_reference(), "the schemas changed: run `python -m dfp.reference`"


def test_configuration_reference_links_to_its_own_sections():
    text = config_reference()
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= sections


def normalised(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def required_packages() -> set[str]:
    """Direct dependencies, those of :data:`EXTRAS`, and pytest."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *(project["optional-dependencies"][extra] for extra in EXTRAS), ["pytest"]]
    return {normalised(re.split(r"[^\w.-]", requirement)[0]) for group in groups for requirement in group}


def environment() -> tuple[list[str], dict[str, str]]:
    """Lines of environment.yml for conda, and pip's pins by package."""
    *conda, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pins = {}
    for line in last["pip"]:
        package, _, version = line.partition("==")
        assert normalised(package) not in pins, f"{package} is pinned twice"
        pins[normalised(package)] = version
    return conda, pins


def test_conda_environment_has_the_versions_of_the_lock():
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    locked = {package["name"]: package.get("version") for package in packages}
    conda, pins = environment()
    assert set(pins) == required_packages() | ONLY_IN_CONDA
    assert {name: pins[name] for name in required_packages()} == {name: locked[name] for name in required_packages()}
    assert f"python={(ROOT / '.python-version').read_text().strip()}" in conda


# --------------------------------------------------------------------------- links


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_resolve(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


# --------------------------------------------------------------------------- commands


def commands() -> list[tuple[str, str]]:
    """``(page, command)`` for every ``python -m dfp ...`` in a code block; a backslash continues a line."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^ *```(?:bash|sh|console)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name_of(page), line.strip().removeprefix("$ ")) for line in lines if "python -m dfp " in line]
    return found


def test_there_are_commands_to_check():
    assert len(commands()) > 10


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse_and_name_what_exists(page: str, line: str):
    name, *arguments = shlex.split(line.split("python -m dfp ")[1], comments=True)
    context = COMMANDS[name].make_context(name, arguments)  # raises on an unknown option
    if (config := context.params.get("config")) is not None:
        assert (ROOT / config).exists(), f"{page}: {config}"
    assert context.params.get("task") in {None, *CATALOGUE.tasks}
    methods = context.params.get("method") or []
    assert ({methods} if isinstance(methods, str) else set(methods)) <= set(CATALOGUE.methods)


# --------------------------------------------------------------------------- methods and code


def test_every_method_has_a_page_and_every_page_a_method():
    assert {page.stem for page in METHOD_PAGES.glob("*.md")} == set(CATALOGUE.methods)


@pytest.mark.parametrize("method", CATALOGUE.methods)
def test_a_method_page_has_its_commands(method: str):
    text = (METHOD_PAGES / f"{method}.md").read_text()
    online = any(method in entry.methods for entry in CATALOGUE.experiments.values() if entry.stage == "finetune")
    for command in ("data", *(("pretrain", "finetune") if online else ("offline",))):
        assert re.search(rf"^python -m dfp {command} ", text, re.MULTILINE), command
    assert f"--method {method} " in text


def references() -> set[tuple[str, str]]:
    """``(page, reference)`` for every path in backquotes: ``file.py`` or ``file.py::Class.method``."""
    pattern = re.compile(r"`((?:dfp|tests|config|workflow)/[\w./-]+\.\w+(?:::[\w.]+)?)`")
    return {(name_of(page), found) for page in PAGES for found in pattern.findall(page.read_text())}


@pytest.mark.parametrize(("page", "reference"), sorted(references()))
def test_files_and_functions_that_pages_name_exist(page: str, reference: str):
    path, _, name = reference.partition("::")
    assert (ROOT / path).is_file(), page
    scope = ast.parse((ROOT / path).read_text()).body if name else []
    for part in filter(None, name.split(".")):
        node = next((node for node in scope if part in names_in(node)), None)
        assert node is not None, page
        scope = getattr(node, "body", [])


def names_in(node: ast.stmt) -> set[str]:
    """Names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return {target.id for target in targets if isinstance(target, ast.Name)}
