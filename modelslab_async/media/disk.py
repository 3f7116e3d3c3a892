"""Flush folders to the disk, so that new files survive a crash of the machine."""

import os
from contextlib import suppress
from pathlib import Path


def flush_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk, if its file system can do that.

    Otherwise the files have their names all the same, so no error is raised. SMB, DrvFs and some FUSE file systems
    refuse with EINVAL, EIO, ENOTSUP or EACCES, and Windows cannot open a folder:
    https://github.com/microsoft/WSL/issues/2557, https://github.com/borgbackup/borg/issues/1287.
    """
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
