"""Archives of images, .tar and .zip: their members' names and places; nothing is unpacked, `../` is only a name."""

import logging
import os
import tarfile
import zipfile
from array import array
from collections import Counter

import numpy as np
import pyarrow.compute as pc

from data.sources.base import kind_of
from data.sources.folder import is_image_name
from data.sources.members import MemberSource, Places, ZipSource
from data.tables.names import Names
from utils.errors import DataError

logger = logging.getLogger(__name__)


class _Listing:
    """Gather the members of an archive: those that are images by their names, and how many are not."""

    def __init__(self):
        self.text, self.lengths = bytearray(), array("q")
        self.offsets, self.sizes, self.checksums = array("q"), array("q"), array("L")
        self.others: Counter[str] = Counter()

    def add(self, name: bytes, place: tuple[int, int], checksum: int | None = None) -> None:
        """Take a member that lies at `place`, offset and size."""
        if not is_image_name(name.rpartition(b"/")[2]):
            self.others[kind_of(name)] += 1
            return
        self.text += name
        self.lengths.append(len(name))
        self.offsets.append(place[0])
        self.sizes.append(place[1])
        if checksum is not None:
            self.checksums.append(checksum)

    def source(self, location: str, kind: type[MemberSource]) -> MemberSource:
        """Return the images in the order of their names; of members of one name the last one counts, as unpacked."""
        ends = np.zeros(len(self.lengths) + 1, np.int64)
        np.cumsum(np.frombuffer(self.lengths, np.int64), out=ends[1:])
        names = Names(np.frombuffer(bytes(self.text), np.uint8), ends)
        checksums = np.array(self.checksums, np.uint32) if self.checksums else None
        places = Places(np.frombuffer(self.offsets, np.int64), np.frombuffer(self.sizes, np.int64), checksums)
        order = pc.sort_indices(names.to_arrow()).to_numpy().astype(np.int64)  # stable
        names = names.take(order)
        again = np.zeros(len(names), bool)
        if len(names) > 1:
            same = names.to_arrow()
            again[:-1] = pc.equal(same[:-1], same[1:]).to_numpy(zero_copy_only=False)
        if again.any():
            first = names[int(np.flatnonzero(again)[0])]
            logger.warning(
                f"{location}: {np.count_nonzero(again)} members were added again under the same name, first "
                f"{first!r}; the last of each counts"
            )
            names, order = names.take(np.flatnonzero(~again)), order[~again]
        return kind(location, names, places.take(order), self.others)


def open_tar(location: str | os.PathLike) -> MemberSource:
    """List the images of an uncompressed .tar; raises DataError where it is none, or damaged between its members.

    Of one that is cut off, the last image is a failure.
    """
    listing, location = _Listing(), os.path.abspath(location)
    try:
        with tarfile.open(location, "r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (member := _next(archive, location)) is not None:
                if member.isreg():
                    name = member.name.encode("utf-8", "surrogateescape")
                    listing.add(name, (member.offset_data, member.size))
                elif not member.isdir():
                    listing.others["that is no regular file"] += 1
                vars(archive)["members"].clear()  # or the library keeps them all
            _check_end(archive.offset, location)
    except tarfile.TarError as error:
        raise DataError(
            f"{location}: cannot be read as an uncompressed .tar ({error}); unpack a compressed one with gunzip or unxz"
        ) from None
    except OSError as error:
        raise DataError(f"{location}: cannot be read ({error.strerror or error})") from error
    return listing.source(location, MemberSource)


def _next(archive: tarfile.TarFile, location: str) -> tarfile.TarInfo | None:
    try:
        return archive.next()
    except tarfile.ReadError as error:
        if archive.offset == 0:
            raise
        size = os.path.getsize(location)
        if archive.offset > size:
            logger.warning(f"{location}: cut off, it has {size} bytes; fetch it again")
            return None
        raise DataError(f"{location}: damaged at byte {archive.offset} ({error}); fetch it again") from None


def _check_end(offset: int, location: str) -> None:
    """Raise DataError where a tar goes on with what is no member: the library takes that for its end."""
    with open(location, "rb") as stream:
        stream.seek(offset)
        head, rest = stream.read(tarfile.BLOCKSIZE), stream.read(1 << 16)
    if head.strip(b"\0"):
        raise DataError(f"{location}: damaged at byte {offset}, where no member begins; fetch it again")
    if rest.strip(b"\0"):
        logger.warning(
            f"{location}: goes on behind its end at byte {offset}; of joined archives only the first is read"
        )


def open_zip(location: str | os.PathLike) -> MemberSource:
    """List the images of a .zip by its directory; raises DataError where there is none."""
    listing, location = _Listing(), os.path.abspath(location)
    try:
        with zipfile.ZipFile(location) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    name = member.orig_filename.encode("utf-8", "surrogateescape")
                    listing.add(name, (member.header_offset, member.compress_size), member.CRC)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise DataError(f"{location}: cannot be read as a .zip ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{location}: cannot be read ({error.strerror or error})") from error
    return listing.source(location, ZipSource)
