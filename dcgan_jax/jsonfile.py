"""JSON that strangers may have written or edited: read within bounds of size and depth, and never from a pipe or a device."""

import errno
import json
import os
import stat
from pathlib import Path

MAX_BYTES = 16 * 2**20  # ours take kilobytes; as lists of lists these become 0.4 GB in Python


def read(file: Path):
    """The value in file. Raises: OSError where no such plain file is, ValueError where it is too large, too deep or no JSON."""
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for, a device may have no end
        raise OSError(errno.EINVAL, "no plain file")
    with open(file, "rb") as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES:,} bytes")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("nested too deeply") from None
