"""Snakemake on this workflow, in a process of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def snakemake(*arguments: str, folder: Path, snakefile: Path = ROOT / "Snakefile") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile), "--cores", "2", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def planned(*arguments: str, folder: Path, snakefile: Path = ROOT / "Snakefile") -> dict[str, int]:
    """Job counts of a dry run, by rule."""
    done = snakemake(*arguments, "-n", "--quiet", "rules", folder=folder, snakefile=snakefile)
    assert done.returncode == 0, done.stderr + done.stdout
    lines = (done.stdout + done.stderr).splitlines()
    counts = {}
    for line in lines[next((n for n, text in enumerate(lines) if text.startswith("job  ")), len(lines)) + 2 :]:
        if not line.strip():
            break
        rule, count = line.split()
        counts[rule] = int(count)
    counts.pop("total", None)
    return counts
