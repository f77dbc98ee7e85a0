"""Damages of a file, for the tests that read damaged ones. ``DFP_FUZZ=5000`` tries as many of each format."""

import os
from collections.abc import Callable, Iterator

import numpy as np

from dfp.errors import DfpError

COUNT = int(os.environ.get("DFP_FUZZ", "300"))


def damaged(content: bytes, seed: int) -> Iterator[bytes]:
    """``COUNT`` damages of a file: cut, emptied, zeroed, bits flipped, bytes or lines lost, doubled or put in."""
    stream = np.random.default_rng(seed)
    lines = content.splitlines(keepends=True)
    yield b""
    for number in range(COUNT - 1):
        data = bytearray(content)
        at = int(stream.integers(len(data)))
        length = int(stream.integers(1, 65))
        line = int(stream.integers(len(lines)))
        match number % 8:
            case 0:
                del data[at:]
            case 1:
                data[at : at + length] = bytes(len(data[at : at + length]))
            case 2:
                for flipped in stream.integers(len(data), size=stream.integers(1, 4)):
                    data[flipped] ^= 1 << int(stream.integers(8))
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at:at] = stream.bytes(length)
            case 6:
                data = b"".join(lines[:line] + lines[line + 1 :])
            case 7:
                data = b"".join([*lines[: line + 1], *lines[line:]])
        yield bytes(data)


def read_or_refused[Found](read: Callable[[], Found]) -> Found | None:
    """What is read; None if it is refused in one line. Any other error is the test's."""
    try:
        return read()
    except DfpError as error:
        if "\n" in str(error):
            raise
        return None
