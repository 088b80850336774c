"""Keep the memory of one batch for the next: glibc gives large blocks back to the system and asks for them anew."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3)
TRIM_BYTES, MMAP_BYTES = 256 << 20, 32 << 20
"""Free memory that is kept, and the size from which a block is the system's; glibc's mallopt takes no larger one."""


def keep_memory() -> bool:
    """Have glibc keep up to 256 MiB of free memory; tell whether it does.

    Nothing happens with another C library, or where MALLOC_* in the environment says what to do.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  there in glibc alone
    except (AttributeError, OSError, TypeError):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, MMAP_BYTES) and library.mallopt(_TRIM_THRESHOLD, TRIM_BYTES))
