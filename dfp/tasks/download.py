"""Fetching the published datasets: resumed where they stopped, named only once they are whole."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import requests

from dfp.spec import TaskSpec
from dfp.tasks.dataset import (
    DataError,
    File,
    Manifest,
    describe,
    file_names,
    how_to_prepare,
    move_into_place,
)

MIRRORS = {  # environment variables, by suite
    "ogbench": "DFP_OGBENCH_URL",
    "robomimic": "DFP_ROBOMIMIC_URL",
    "gymnasium": "DFP_GYMNASIUM_URL",
}
ATTEMPTS = 5  # in a row without a new byte
FIRST_PAUSE = 1.0  # seconds, doubled after each attempt in vain
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between two bytes
CHUNK = 1 << 20  # bytes


class Origin(NamedTuple):
    """Where the files of a dataset are published, and what they are called here."""

    place: str  # the file or folder
    urls: dict[str, str]  # by the name here, in the order of rotation; an empty one: published nowhere


def download(task: TaskSpec, folder: Path, report: Callable[[str], None]) -> Manifest:
    """Fetch what is missing in ``folder`` of the dataset of ``task``.

    A transfer goes to ``<name>.part`` and continues there, also in a later call; the file takes its name once its
    content has been read and found to be a dataset. A file that was copied to ``folder`` by hand is taken as it is.

    Raises:
      DataError: the server cannot be reached or has no such file, or what came is not the published dataset.
    """
    origin = _origin(task)
    with requests.Session() as session:
        session.headers["Accept-Encoding"] = "identity"  # sizes and ranges are those of the file itself
        files = tuple(_obtain(session, url, folder / name, task, report) for name, url in origin.urls.items())
    rows = sum(file.rows for file in files)
    if rows != task.rows:
        raise DataError(f"{folder}: {rows} transitions, but task '{task.key}' says that {task.rows} were published")
    return Manifest(
        dataset=task.dataset,
        source="download",
        url=origin.place or None,
        rows=rows,
        files=files,
        **_facts(task, folder / files[0].name),
    )


def _origin(task: TaskSpec) -> Origin:
    mirror = os.environ.get(MIRRORS[task.suite], "").rstrip("/")
    if task.suite == "robomimic":
        from dfp.tasks.robomimic_files import DATASET_URL

        (name,) = file_names(task.dataset, 1, "hdf5")
        url = f"{mirror or DATASET_URL}/v1.5/{task.dataset.replace('-', '/')}.hdf5"
        return Origin(url, {name: url})
    names = file_names(task.dataset, task.shards)
    if task.suite == "gymnasium":
        return Origin(mirror, {name: f"{mirror}/{name}" if mirror else "" for name in names})
    from ogbench.utils import DATASET_URL

    base = mirror or DATASET_URL.rstrip("/")
    if task.shards > 1:
        base = f"{base}/{task.dataset}"
    urls = {name: f"{base}/{name}" for name in names}
    return Origin(f"{base}/" if task.shards > 1 else urls[names[0]], urls)


def _facts(task: TaskSpec, file: Path) -> dict[str, Any]:
    """What else a manifest says of a suite's files."""
    if task.suite == "robomimic":
        from dfp.tasks import robomimic, robomimic_files

        return {"versions": robomimic.installed_versions(), "env_args": robomimic_files.read_env_args(file, task)}
    if task.suite == "gymnasium":
        from dfp.tasks import gymnasium

        return {"versions": gymnasium.installed_versions(task)}
    from dfp.tasks import ogbench

    return {"versions": ogbench.installed_versions()}


def _obtain(session: requests.Session, url: str, target: Path, task: TaskSpec, report: Callable[[str], None]) -> File:
    if target.exists():
        return describe(target, target.name, task)
    if not url:
        raise DataError(f"{target}: no such file, and no address to fetch it from; copy it there, or {_mirror(task)}")
    part = target.with_name(f"{target.name}.part")
    _fetch(session, url, part, task, report)
    entry = describe(part, target.name, task)
    move_into_place(part, target)
    return entry


def _fetch(session: requests.Session, url: str, part: Path, task: TaskSpec, report: Callable[[str], None]) -> None:
    """Bring ``part`` to its full size, over as many connections as it takes."""
    vain = 0
    while True:
        before = _size(part)
        try:
            return _transfer(session, url, part, task, report)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            vain = 1 if _size(part) > before else vain + 1
            if vain == ATTEMPTS:
                raise DataError(
                    f"{url}: cannot be fetched ({_root(error)}); {_size(part)} bytes are kept. Compute nodes often "
                    f"have no internet: copy the file to {part.with_suffix('')} or, on a login node, "
                    f"{how_to_prepare(task)}"
                ) from None
            report(f"{url}: {_root(error)}; trying again")
            time.sleep(FIRST_PAUSE * 2 ** (vain - 1))
        except requests.RequestException as error:
            raise DataError(f"{url}: cannot be fetched ({error}); {_elsewhere(part, task)}") from None


def _transfer(session: requests.Session, url: str, part: Path, task: TaskSpec, report: Callable[[str], None]) -> None:
    """One connection: continue ``part``, or start it over where the server cannot."""
    done = _size(part)
    headers = {"Range": f"bytes={done}-"} if done else {}
    with session.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        total = _total_size(response)
        if response.status_code == requests.codes.not_found:
            raise DataError(f"{url}: no such file on the server (404); {_elsewhere(part, task)}")
        if response.status_code >= 500:
            raise requests.ConnectionError(f"status {response.status_code}")
        # A range that begins at the end: the last call stopped between the last byte and the new name.
        if response.status_code != requests.codes.requested_range_not_satisfiable:
            response.raise_for_status()
            if response.status_code != requests.codes.partial_content:
                done = 0
            with part.open("ab" if done else "wb") as stream:
                for chunk in response.iter_content(CHUNK):
                    done += stream.write(chunk)
                    if total and done * 10 // total > (done - len(chunk)) * 10 // total:
                        report(f"{url}: {done * 100 // total} % of {total / 1e6:.1f} MB")
    if total is not None and done != total:
        raise DataError(f"{part}: {done} bytes, but {url} has {total}; delete it and try again")


def _elsewhere(part: Path, task: TaskSpec) -> str:
    return f"{_mirror(task)}, or copy the file to {part.with_suffix('')}"


def _mirror(task: TaskSpec) -> str:
    return f"name a mirror by {MIRRORS[task.suite]}"


def _total_size(response: requests.Response) -> int | None:
    """Bytes of the whole file, where the server says."""
    _, _, total = response.headers.get("Content-Range", "").rpartition("/")
    if response.status_code == requests.codes.ok:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdigit() else None


def _root(error: BaseException) -> BaseException:
    """The first cause: `Connection refused`, without the four layers of library around it."""
    while error.__context__ is not None:
        error = error.__context__
    return error


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0
