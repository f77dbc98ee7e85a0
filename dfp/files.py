"""Writing a file whole or not at all, and what a full disk is."""

import errno
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


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of space or quota: somebody may make room, so that trying again can help."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
