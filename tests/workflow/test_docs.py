"""What the documentation says exists: keys, versions, links, commands, functions."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml
from packaging.requirements import Requirement
from typer.main import get_command

from dfp.__main__ import GROUPS, app
from dfp.drift import drift_loss
from dfp.plan.catalogue import load_catalogue
from dfp.plan.reference import TARGET, config_reference

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("config/*.md"), *ROOT.glob("docs/**/*.md")])
METHOD_PAGES = ROOT / "docs" / "methods"
CATALOGUE = load_catalogue()
ONLY_IN_CONDA = ["robomimic==0.3.0"]  # the cross-check of Robomimic's files; environment.yml says why
FROM_CONDA = ["evdev"]  # pip would compile it
RUN_DFP = re.compile(r"^(?:uv run )?dfp |python -m dfp ")
EXTRAS = ("robomimic", "slurm", "video", "tensorboard")  # those that need no choice of hardware and no account


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --------------------------------------------------------------------------- generated and pinned


def test_configuration_reference_is_current():
    assert TARGET.read_text() == config_reference(), "the schemas changed: run `python -m dfp.plan.reference`"


def test_configuration_reference_links_to_its_own_sections():
    text = config_reference()
    sections = {heading.lower().replace(" ", "-") for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    assert set(re.findall(r"\]\(#([^)]+)\)", text)) <= sections


def environment() -> tuple[list[str], list[str]]:
    """Lines of environment.yml for conda and for pip."""
    *conda, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return conda, last["pip"]


def locked() -> list[str]:
    """Pins of the lock for Linux: dependencies, those of :data:`EXTRAS`, pytest, and all that these depend on."""
    options = "--frozen --offline --no-hashes --no-emit-project --no-annotate --no-header --no-default-groups"
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    uv = shutil.which("uv")
    assert uv is not None, "uv reads uv.lock: pip install uv"
    done = subprocess.run(
        [uv, "export", *options.split(), *extras], cwd=ROOT, capture_output=True, check=True, text=True
    )
    pins = map(Requirement, done.stdout.splitlines())
    here = {"sys_platform": "linux", "platform_machine": "x86_64"}
    return [f"{pin.name}{pin.specifier}" for pin in pins if pin.marker is None or pin.marker.evaluate(here)]


def test_conda_environment_is_the_lock():
    conda, pins = environment()
    expected = [pin for pin in locked() if pin.partition("==")[0] not in FROM_CONDA]
    assert pins == [*expected, *ONLY_IN_CONDA], "pip's list in environment.yml:\n" + "\n".join(
        f"- {p}" for p in expected
    )
    assert set(FROM_CONDA) < set(conda)
    assert f"python={(ROOT / '.python-version').read_text().strip()}" in conda


def test_torch_brings_no_cuda_libraries_beside_those_of_jax():
    conda, pins = environment()
    assert {"pytorch-cpu", "torchvision"} <= set(conda)  # robomimic's needs are met before pip looks
    assert not [pin for pin in pins if re.match(r"torch|nvidia-", pin)]


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
    """``(page, command)`` for every ``dfp ...`` in a code block; a backslash continues a line."""
    found = []
    for page in PAGES:
        for block in re.findall(r"^ *```(?:bash|sh|console)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(name_of(page), line.strip().removeprefix("$ ")) for line in lines if RUN_DFP.search(line)]
    return found


def test_there_are_commands_to_check():
    assert len(commands()) > 10


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse_and_name_what_exists(page: str, line: str):
    group, *arguments = shlex.split(RUN_DFP.split(line)[1], comments=True)
    assert group in GROUPS, f"{page}: an old name, or none"
    command = get_command(app)
    command = command.get_command(typer.Context(command), group)  # pyright: ignore[reportAttributeAccessIssue]
    if hasattr(command, "commands"):
        name, *arguments = arguments
        command = command.commands[name]
    context = command.make_context(group, arguments)  # raises on an unknown option
    if (config := context.params.get("config")) is not None:
        assert (ROOT / config).exists(), f"{page}: {config}"
    for key, known in (("task", CATALOGUE.tasks), ("method", CATALOGUE.methods)):
        named = context.params.get(key) or []
        assert ({named} if isinstance(named, str) else set(named)) <= set(known)


# --------------------------------------------------------------------------- methods and code


def test_every_method_has_a_page_and_every_page_a_method():
    assert {page.stem for page in METHOD_PAGES.glob("*.md")} == set(CATALOGUE.methods)


@pytest.mark.parametrize("method", CATALOGUE.methods)
def test_a_method_page_has_its_commands(method: str):
    text = (METHOD_PAGES / f"{method}.md").read_text()
    online = any(method in entry.methods for entry in CATALOGUE.experiments.values() if entry.stage == "finetune")
    for command in ("data", *(("train pretrain", "train finetune") if online else ("train offline",))):
        assert re.search(rf"^dfp {command} ", text, re.MULTILINE), command
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


# --------------------------------------------------------------------------- numbers in prose


def test_the_readme_reports_the_study():
    """Its table, and each difference with its interval, are those of docs/study."""
    text = (ROOT / "README.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    methods = pd.read_csv(ROOT / "docs" / "study" / "study-methods.csv").set_index("label")
    methods = methods.loc[methods.stage == "finetune"]
    shown = {row[0]: row[1:] for row in rows if row[0] in methods.index}
    assert list(shown) == ["DFP", "DFP w/o top-K", "MVP w/ top-K", "MVP"]
    for label, cells in shown.items():
        found = methods.loc[label]
        rates = [f"{100 * found[name]:.0f} %" for name in ("offline_mean", "last_mean", "area_mean")]
        assert cells == [f"{found.n}", *rates, f"{found.steps_median:,.0f}"], label

    claims = pd.read_csv(ROOT / "docs" / "study" / "study-claims.csv").set_index("difference")
    for row in claims.loc[["dfp − mvp"]].itertuples():
        for points in (row.value, row.low, row.high):
            assert re.search(rf"(?<![\d.]){100 * points:.0f}(?![\d.])", text), (row.score, points)

    pairs = pd.read_csv(ROOT / "docs" / "study" / "study-dfp-pairs.csv").set_index("better")
    sentence = text.split("What the paper leaves open")[1].split("\n")[0]
    for variant in ("dfp_h=0.1", "dfp_field=mean_shift"):
        row = pairs.loc[variant]
        shown = [float(f"{100 * row[name]:.2g}") for name in ("last_value", "last_low", "last_high")]
        assert f"{abs(shown[0]):g} " in sentence, variant
        assert f"({shown[1]:g} to {shown[2]:g}" in sentence, variant
    assert (pairs.loc["dfp_field=mean_shift", "n"], "three seeds each" in sentence) == ("3/3", True)
    assert abs(row["last_value"]) > row["last_welch"]  # "Welch's interval excludes 0"

    lift = pd.read_csv(ROOT / "docs" / "study" / "study-lift-claims.csv").set_index(["difference", "score"])
    sentence = text.split("On lift")[1].split("\n")[0]
    for difference in ("dfp − mvp", "dfp − dfp-no-topk − mvp-topk + mvp"):
        row = lift.loc[(difference, "mean of the last three evaluations")]
        low, high = (round(100 * (abs(row.value) + sign * row.welch)) for sign in (-1, 1))
        assert f"{100 * abs(row.value):.0f} points" in sentence
        assert f"{low} to {high})" in sentence


def test_the_api_reference_shows_the_shapes_of_arrays():
    """A signature keeps the annotations of arrays, and a field begins with its own."""
    pytest.importorskip("sphinx", reason="the group docs is not installed")
    pages = runpy.run_path(str(ROOT / "docs" / "conf.py"))
    arguments = (
        "(samples: ~jaxtyping.Float[Array, 'B G D'], field, weights: ~jaxtyping.Float[Array, 'B D'] | None = None)"
    )
    shown = pages["shapes"](None, "function", "dfp.drift.drift_loss", drift_loss, None, "", "")
    assert shown == (arguments, "~jaxtyping.Float[Array, '']")
    lines = ["displacement", "", ":type: velocity"]  # as napoleon leaves "velocity: displacement"
    pages["plain_docstrings"](None, "attribute", "dfp.drift.Field.velocity", None, None, lines)
    assert lines == ["``Float[Array, 'B G D']``", "", "velocity: displacement", ""]
