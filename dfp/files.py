"""Read text and JSON that a person may have edited, write files by rename, format tables."""

import contextlib
import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfp.errors import ConfigError


def expanded(path: str) -> str:
    """The path with ``~`` and ``$VARIABLE`` replaced, as a shell would; ValueError if one is unknown."""
    found = os.path.expanduser(os.path.expandvars(path))
    if not found.strip() or found.startswith("~") or re.search(r"\$\w|\$\{", found):
        raise ValueError(f"'{path}' is not a path: it is empty, or names an unknown user or an unset variable")
    return found


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, in any locale, without a byte order mark.

    Raises :class:`ConfigError` if the file is missing or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start + 1}); save it as UTF-8") from None


def parsed_json(text: str) -> Any:
    """The value of JSON text; ValueError if it is not JSON, holds NaN or infinity, or an object has a key twice."""
    return json.loads(text, object_pairs_hook=_distinct, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key '{next(name for name in names if names.count(name) > 1)}' is there twice")
    return found


def json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; :class:`ConfigError` if the file is missing or holds anything else."""
    try:
        content = parsed_json(read_text(path))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return content


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an OSError raised in this block name ``path`` if it names no file or a temporary file of ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno and (not error.filename or f".{path.name}." in str(error.filename)):
            error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def replacing(path: Path, ending: str = "tmp") -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it if the block succeeds, and is deleted otherwise.

    After a full disk or a killed process, ``path`` is as before.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{ending}")
    with naming(path):
        try:
            yield temporary
            move_into_place(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def move_into_place(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``, after its bytes are on the disk."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Write ``content`` to ``path`` as :func:`replacing` does; return the path."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv_rows(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A CSV file with a header; each row has exactly these columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def pipe_row(fields: Iterable[object]) -> str:
    """One row of a Markdown table. A ``|`` in a field is escaped."""
    return "| " + " | ".join(str(field).replace("|", r"\|") for field in fields) + " |"


def pipe_table(head: Iterable[object], rows: Iterable[Iterable[object]], text: int = 1) -> list[str]:
    """The lines of a Markdown table. The first ``text`` columns are aligned to the left, the others to the right."""
    head = list(head)
    return [pipe_row(head), pipe_row([":--"] * text + ["--:"] * (len(head) - text)), *map(pipe_row, rows)]
