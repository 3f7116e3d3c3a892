"""Flush what was written, so that it survives a crash of the machine."""

import os
from contextlib import suppress
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, if its file system can do that.

    The files are at their names in each case, so a refusal is no error. SMB, DrvFs and some FUSE file systems refuse
    with EINVAL, EIO, ENOTSUP or EACCES, and Windows opens no folder:
    https://github.com/microsoft/WSL/issues/2557, https://github.com/borgbackup/borg/issues/1287.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
