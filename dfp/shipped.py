"""Paths of the files that come with the code: the catalogue, the configurations, the workflow.

In a checkout they are beside ``dfp/``; a wheel has them inside it, in ``dfp/_shipped/``.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE / "_shipped" if (_PACKAGE / "_shipped").is_dir() else _PACKAGE.parent
CATALOGUE = ROOT / "config"
LOCK = ROOT / "uv.lock"
SNAKEFILE = ROOT / "Snakefile"
PROFILES = ROOT / "workflow" / "profiles"
SLURM_PROFILE = PROFILES / "slurm" / "config.yaml"
