"""Writing a file whole or not at all."""

import os
from pathlib import Path


def write_atomically(path: Path, content: str | bytes) -> Path:
    """Put ``content`` under ``path`` by rename: a full disk or a killed process leaves what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
