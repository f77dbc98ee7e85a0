"""Mutation run: changes the code one thing at a time and reports which changes no test notices.

    python tests/mutate.py                          every mutant of tests/mutants.yaml
    python tests/mutate.py --only agents/dfp        those whose file or description contains the text
    python tests/mutate.py --operators 60 --seed 1  also 60 operator mutants, drawn from the same files
    python tests/mutate.py --operators 20 --only dfp/drift.py    those of one file, and 20 operator mutants of it
    python tests/mutate.py --check                  only check that each mutant still fits its file

A mutant of the list is a text that occurs once in its file, a text in its place, and a line that says what breaks.
It is killed if a test of its file fails, and lives if all pass. Tests with the marker ``slow`` are left out. Tests run
in a copy of the project, so that the working tree stays as it is.
"""

import argparse
import ast
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[1]
LIST = ROOT / "tests" / "mutants.yaml"
COPIED = ("dfp", "tests", "config", "docs", "workflow", "Snakefile", "pyproject.toml", "README.md", "uv.lock")
TIMEOUT_S = 1800

# One operator for another. Each pair changes the meaning of every expression that a test can reach.
SWAPS: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


class Mutant(NamedTuple):
    """One change of one file."""

    file: str
    start: int  # characters of the file from here
    end: int  # to here
    replacement: str
    breaks: str  # what the change gets wrong


def listed() -> tuple[list[Mutant], dict[str, list[str]]]:
    """The mutants of the list, and the tests of each file."""
    content = yaml.safe_load(LIST.read_text())
    mutants = []
    for file, entries in content["mutants"].items():
        text = (ROOT / file).read_text()
        for entry in entries:
            times = text.count(entry["find"])
            if times != 1:
                raise SystemExit(f"{LIST.name}: {file}: '{entry['find']}' occurs {times} times; wanted once")
            start = text.index(entry["find"])
            mutants.append(Mutant(file, start, start + len(entry["find"]), entry["replace"], entry["breaks"]))
    return mutants, content["tests"]


def operators(files: list[str], count: int, seed: int) -> list[Mutant]:
    """``count`` mutants by one operator or number each, drawn without replacement from all that ``files`` allow."""
    found = [mutant for file in files for mutant in _operators_of(file)]
    return random.Random(seed).sample(found, min(count, len(found)))


def _operators_of(file: str) -> Iterator[Mutant]:
    text = (ROOT / file).read_text()
    lines = text.splitlines(keepends=True)

    def span(node: ast.expr) -> tuple[int, int]:
        def at(line: int, column: int) -> int:
            return sum(map(len, lines[: line - 1])) + len(lines[line - 1].encode()[:column].decode())

        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    for node in _executed(ast.parse(text)):
        changed = None
        if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
            changed = ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
            changed = ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators)
        elif isinstance(node, ast.BoolOp):
            changed = ast.BoolOp(SWAPS[type(node.op)](), node.values)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.Not):
            changed = node.operand
        elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
            changed = ast.Constant(node.value + 1)
        if changed is not None:
            start, end = span(node)
            new = f"({ast.unparse(ast.fix_missing_locations(changed))})"
            yield Mutant(file, start, end, new, f"line {node.lineno}: {text[start:end]} -> {new}")


def _executed(tree: ast.AST) -> Iterator[ast.expr]:
    """The expressions that run: no annotations, no texts of errors, no descriptions of settings."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.arg | ast.Raise | ast.JoinedStr | ast.Import | ast.ImportFrom):
            continue
        if isinstance(child, ast.AnnAssign):
            yield from _executed(ast.Expression(child.value)) if child.value else ()
            continue
        if isinstance(child, ast.Subscript) and isinstance(child.ctx, ast.Load) and _is_type(child):
            continue
        if isinstance(child, ast.expr):
            yield child
        yield from _executed(child)


def _is_type(node: ast.Subscript) -> bool:
    """Whether a subscript is an annotation such as ``Annotated[int, ...]``."""
    return isinstance(node.value, ast.Name) and node.value.id[:1].isupper()


def run_tests(copy: Path, tests: list[str]) -> str:
    """``passed``, ``failed`` or ``timed out``, of a fork: it begins with the libraries loaded, but no code of ours."""
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(copy, tests))
    process.start()
    process.join(TIMEOUT_S)
    if process.is_alive():
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
        return "timed out"
    return "passed" if process.exitcode == 0 else "failed"


def _pytest(copy: Path, tests: list[str]) -> None:
    os.setsid()
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ |= {
        "PYTHONPATH": str(copy),
        "PYTHONDONTWRITEBYTECODE": "1",  # a changed file of the same size and second would be read from its bytecode
    }
    sys.dont_write_bytecode = True
    output = (copy / "pytest.txt").open("w")
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    import pytest

    fast = ["-m", "not slow and not cluster"]
    code = pytest.main(["-x", "-q", "-n", "0", "--durations=0", "-p", "no:cacheprovider", *fast, *tests])
    output.flush()
    os._exit(int(code))


def load_libraries(copy: Path) -> None:
    """What every test imports. Nothing here starts a JAX backend, which would not survive a fork."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(copy / "compiled")  # its keys are hashes of the programs
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    for name in ("flax.linen", "jax.numpy", "optax", "pandas", "pydantic", "pytest", "scipy.stats", "seaborn", "typer"):
        importlib.import_module(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="text that the file or the description of a mutant contains")
    parser.add_argument("--operators", type=int, default=0, help="operator mutants to add")
    parser.add_argument("--seed", type=int, default=0, help="which operator mutants")
    parser.add_argument("--check", action="store_true", help="run no test")
    parser.add_argument("--results", type=Path, help="JSON lines, one per mutant; those in it are not run again")
    chosen = parser.parse_args()

    mutants, tests = listed()
    files = [file for file in sorted(tests) if chosen.only in file] or sorted(tests)
    mutants += operators(files, chosen.operators, chosen.seed)
    mutants = [mutant for mutant in mutants if chosen.only in f"{mutant.file} {mutant.breaks}"]
    print(f"{len(mutants)} mutants of {len({mutant.file for mutant in mutants})} files")
    if chosen.check:
        return
    known = {}
    if chosen.results and chosen.results.exists():
        lines = [json.loads(line) for line in chosen.results.read_text().splitlines()]
        known = {(line["file"], line["breaks"]): line["outcome"] for line in lines}
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        load_libraries(copy)
        for name in COPIED:
            source = ROOT / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, copy / name)
        outcomes = {}
        needed = {
            test for mutant in mutants if (mutant.file, mutant.breaks) not in known for test in tests[mutant.file]
        }
        if needed and (outcome := run_tests(copy, sorted(needed))) != "passed":
            shutil.copy(copy / "pytest.txt", "mutate-failed.txt")
            raise SystemExit(f"the tests {outcome} before any change: see mutate-failed.txt")
        for mutant in mutants:
            key = mutant.file, mutant.breaks
            outcomes[mutant] = known.get(key) or _outcome(copy, mutant, tests[mutant.file], chosen.results)
    _summary(outcomes)


def _outcome(copy: Path, mutant: Mutant, tests: list[str], results: Path | None) -> str:
    path = copy / mutant.file
    text = path.read_text()
    started = time.monotonic()
    path.write_text(text[: mutant.start] + mutant.replacement + text[mutant.end :])
    outcome = {"passed": "LIVED"}.get(run_tests(copy, tests), "killed")
    path.write_text(text)
    seconds = time.monotonic() - started
    print(f"{outcome} {seconds:4.0f} s  {mutant.file}: {mutant.breaks}", flush=True)
    if results:
        with results.open("a") as file:
            line = {"file": mutant.file, "breaks": mutant.breaks, "outcome": outcome, "seconds": round(seconds)}
            file.write(json.dumps(line) + "\n")
    return outcome


def _summary(outcomes: dict[Mutant, str]) -> None:
    print()
    for file in sorted({mutant.file for mutant in outcomes}):
        of_file = [outcome for mutant, outcome in outcomes.items() if mutant.file == file]
        print(f"{of_file.count('killed'):4} of {len(of_file):4} killed  {file}")
    killed = list(outcomes.values()).count("killed")
    print(f"{killed:4} of {len(outcomes):4} killed ({killed / max(len(outcomes), 1):.1%})")
    for mutant, outcome in outcomes.items():
        if outcome != "killed":
            print(f"lived  {mutant.file}: {mutant.breaks}")


if __name__ == "__main__":
    main()
