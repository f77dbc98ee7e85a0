"""The recipes, as far as a machine without a container engine can: their parts, and their own steps for real."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = (ROOT / "container" / "Dockerfile").read_text()
APPTAINER = (ROOT / "container" / "dfp-repro.def").read_text()
PACKAGES = r"apt-get install --yes --no-install-recommends ([\w -]+?)(?: \\)?$"


def copied(recipe: str) -> set[str]:
    """What the recipe takes from the checkout."""
    if recipe is DOCKER:
        lines = re.findall(r"^COPY (.+) \S+$", recipe, re.MULTILINE)
        return {name for line in lines for name in line.split()}
    (files,) = re.findall(r"^%files\n((?: +.+\n)+)", recipe, re.MULTILINE)
    return {line.split()[0] for line in files.splitlines()}


def test_both_recipes_make_the_same():
    assert copied(DOCKER) == copied(APPTAINER)
    for pattern in (r"^(?:FROM|From:) (\S+)$", PACKAGES, r"EXTRAS=\"?([\w ]+?)\"?$"):
        (docker,), (apptainer,) = (
            {found for found in re.findall(pattern, text, re.MULTILINE) if found != "cuda13"}
            for text in (re.sub(r"^#.*", "", DOCKER, flags=re.MULTILINE), re.sub(r"^#.*", "", APPTAINER, flags=re.M))
        )
        assert docker == apptainer
    step = "sh /opt/dfp-repro/container/install.sh /opt/dfp-repro /opt/environment"
    assert f"RUN {step} $EXTRAS" in DOCKER
    assert f"    {step} {{{{ EXTRAS }}}}" in APPTAINER


def test_what_is_copied_exists_and_the_base_is_pinned():
    assert {name for name in copied(DOCKER) if not (ROOT / name).exists()} == set()
    version = (ROOT / ".python-version").read_text().strip()
    assert f"FROM python:{version}-slim-bookworm" in DOCKER
    project = (ROOT / "pyproject.toml").read_text()
    for extra in re.findall(r"EXTRAS=\"([\w ]+)\"$", DOCKER, re.MULTILINE)[-1].split():
        assert f"\n{extra} = [" in project


def test_sections_of_the_apptainer_recipe():
    found = re.findall(r"^%(\w+)", APPTAINER, re.MULTILINE)
    assert found == ["arguments", "files", "post", "environment", "test"]
    subprocess.run(["sh", "-n", str(ROOT / "container" / "install.sh")], check=True, timeout=60)


@pytest.mark.slow
def test_the_same_steps_in_an_empty_environment(tmp_path):
    """What an image gets: the files of the recipe alone, and the script that both run."""
    source, environment = tmp_path / "source", tmp_path / "environment"
    source.mkdir()
    for name in copied(APPTAINER):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, source / name)
    # Of this environment only how to reach the registry, and its cache.
    kept = re.compile(r"HOME|(SSL|PIP|UV|REQUESTS|CURL)_.*|.*_PROXY", re.IGNORECASE)
    bare = {name: value for name, value in os.environ.items() if kept.fullmatch(name)}
    bare["PATH"] = f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    install = ["sh", str(source / "container" / "install.sh"), str(source), str(environment), "slurm"]
    made = subprocess.run(install, env=bare, capture_output=True, text=True, timeout=1500, check=False)
    assert made.returncode == 0, made.stderr
    assert "packages have the versions of uv.lock" in made.stdout
    bare |= {"PATH": f"{environment}/bin:/usr/bin:/bin", "PYTHONPATH": str(source)}
    line = ["python", "-m", "dfp", "ops", "doctor", "--config", "config/smoke.yaml"]
    line += ["--only", "simulator", "--only", "device"]
    works = subprocess.run(line, cwd=source, env=bare, capture_output=True, text=True, timeout=600, check=False)
    assert works.returncode == 0, works.stdout + works.stderr
    planned = ["snakemake", "--dry-run", "--quiet", "rules", "--configfile", "config/smoke.yaml"]
    subprocess.run(planned, cwd=source, env=bare, capture_output=True, timeout=600, check=True)
