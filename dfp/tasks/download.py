"""Fetching the published datasets. A transfer resumes where it stopped, and a file gets its name when it is whole."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import NamedTuple

import requests

from dfp.files import move_into_place, naming, read_text, write_atomically
from dfp.spec import TaskSpec
from dfp.tasks.interface import DamagedError, DataError, Suite
from dfp.tasks.manifest import File, describe, how_to_prepare

log = logging.getLogger("dfp")

ATTEMPTS = 5  # in a row without a new byte
FIRST_PAUSE = 1.0  # seconds, doubled after each attempt in vain
TIMEOUT = (10.0, 60.0)  # seconds to connect, and to wait for the next bytes
CHUNK = 1 << 20  # bytes


def download(suite: Suite, task: TaskSpec, folder: Path) -> tuple[str | None, list[File]]:
    """Fetch what is missing in ``folder`` of the dataset of ``task``. Returns the dataset's address, and its files.

    A transfer goes to ``<name>.part`` and continues there, also in a later call. The file takes its name when its
    content has been read and found to be a dataset. A file that was copied to ``folder`` by hand is read and kept.

    Raises:
      DataError: the server cannot be reached or has no such file, or the file is not the published dataset.
    """
    origin = suite.origin(task, os.environ.get(suite.mirror, "").rstrip("/"))
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file itself
        fetch = _Fetch(session, suite, task)
        files = [fetch.obtain(url, folder / name) for name, url in origin.urls.items()]
    rows = sum(file.rows for file in files)
    if rows != task.rows:
        raise DataError(f"{folder}: {rows} transitions, but task '{task.key}' says that {task.rows} were published")
    return origin.place or None, files


class _Fetch(NamedTuple):
    """What the transfers of one dataset have in common."""

    session: requests.Session
    suite: Suite
    task: TaskSpec

    def obtain(self, url: str, target: Path) -> File:
        if target.exists():
            return self._describe(target, target.name)
        if not url:
            raise DataError(
                f"{target}: no such file, and no address to fetch it from; copy it there, or {self._mirror}"
            )
        part = target.with_name(f"{target.name}.part")
        self._bring(url, part)
        try:
            entry = self._describe(part, target.name)
        except DamagedError as error:
            part.unlink()
            raise DataError(
                f"{url}: what came is not a dataset and was deleted ({error}); {self._elsewhere(part)}"
            ) from None
        move_into_place(part, target)
        _version_of(part).unlink(missing_ok=True)
        return entry

    def _describe(self, file: Path, name: str) -> File:
        return describe(file, name, len(self.suite.read_transitions(file, self.task).terminals))

    def _bring(self, url: str, part: Path) -> None:
        """Bring ``part`` to its full size, over as many connections as it takes."""
        vain = 0
        while True:
            before = _size(part)
            try:
                return self._transfer(url, part)
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                vain = 1 if _size(part) > before else vain + 1
                if vain == ATTEMPTS:
                    raise DataError(
                        f"{url}: cannot be fetched ({_root(error)}); {_size(part)} bytes are kept. Compute nodes often "
                        "have no internet: set HTTPS_PROXY if there is a proxy, copy the file to "
                        f"{part.with_suffix('')} or, on a login node, {how_to_prepare(self.task)}"
                    ) from None
                log.info(f"{url}: {_root(error)}; trying again")
                time.sleep(FIRST_PAUSE * 2 ** (vain - 1))
            except requests.RequestException as error:
                raise DataError(f"{url}: cannot be fetched ({_line(error)}); {self._elsewhere(part)}") from None

    def _transfer(self, url: str, part: Path) -> None:
        """One connection: continue ``part`` if the server still has the same version of the file, or start it over."""
        version = _version_of(part)
        done = _size(part) if version.exists() else 0
        headers = {"Range": f"bytes={done}-", "If-Range": read_text(version)} if done else {}
        with self.session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            if response.status_code == requests.codes.not_found:
                raise DataError(f"{url}: no such file on the server (404); {self._elsewhere(part)}")
            if response.status_code >= 500:
                raise requests.ConnectionError(f"status {response.status_code}")
            total = _total_size(response)
            # A range that begins at the end: the last call stopped between the last byte and the new name.
            if response.status_code != requests.codes.requested_range_not_satisfiable:
                response.raise_for_status()
                if response.headers.get("Content-Type", "").startswith("text/html"):
                    raise DataError(
                        f"{url}: the server sent a web page instead of the file (from {response.url}: a login, a proxy "
                        f"or a moved file?); {self._elsewhere(part)}"
                    )
                if response.status_code != requests.codes.partial_content:
                    done = 0
                    part.unlink(missing_ok=True)  # first, so that a kill leaves no old bytes beside the new version
                    _note_version(version, response)
                with naming(part), part.open("ab" if done else "wb") as stream:
                    for chunk in response.iter_content(CHUNK):
                        done += stream.write(chunk)
                        if total and done * 10 // total > (done - len(chunk)) * 10 // total:
                            log.info(f"{url}: {done * 100 // total} % of {total / 1e6:.1f} MB")
        if total is not None and done != total:
            part.unlink(missing_ok=True)
            raise DataError(
                f"{url}: {done} bytes came, but the server says {total}; they were deleted, {how_to_prepare(self.task)}"
            )

    def _elsewhere(self, part: Path) -> str:
        return f"{self._mirror}, or copy the file to {part.with_suffix('')}"

    @property
    def _mirror(self) -> str:
        return f"name a mirror by {self.suite.mirror}"


def _version_of(part: Path) -> Path:
    """The file that names the version of the published file that ``part`` is the beginning of."""
    return part.with_name(f"{part.name}.version")


def _note_version(file: Path, response: requests.Response) -> None:
    """Write down what ``If-Range`` compares: the strong ETag, or else the date. Without either no transfer resumes."""
    version = response.headers.get("ETag", "")
    if not version or version.startswith("W/"):
        version = response.headers.get("Last-Modified", "")
    if version:
        write_atomically(file, version)
    else:
        file.unlink(missing_ok=True)


def _total_size(response: requests.Response) -> int | None:
    """Bytes of the whole file; None if the server does not say."""
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    if response.status_code == requests.codes.ok:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _root(error: BaseException) -> str:
    """The first cause: `Connection refused`, without the four layers of library around it."""
    while error.__context__ is not None:
        error = error.__context__
    return _line(error)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
