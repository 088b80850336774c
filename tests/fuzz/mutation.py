"""Seeded mutations of bytes, and of what archives and PNGs hold, so that checksums do not hide the readers."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence

import numpy as np

Mutation = Callable[[bytes, np.random.Generator], bytes]

TOKENS = (
    b"\0", b"\xff", b"\xef\xbb\xbf", b"\r\n", b"\n\n", b"\t", b",", b";", b'"', b"'", b"#", b"nan", b"-inf", b"1e999",
    b"-1", b"0x_", b"1_0", "²".encode(), b"\xed\xa0\x80", b"9" * 25, b"9" * 5000, b"[" * 300, b"{", b"}", b"]", b"null",
    b"true", b"<<: *a", b"&a ", b"*a", b"!!int x", b"!!python/name:os.system", b"? [a]\n: 1\n", b"2001-99-99", b"../",
    b"**", b"\x80\x04", b"\x93", b"\x81", b"h\0", b"q\0", b"r\xff\xff\xff\x7f", b"\x85" * 40, b"(", b"u", b"s", b"R",
    b".", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"K\x01", b"J\xff\xff\xff\x7f", b"I99\n", b"PK\3\4", b"PK\1\2",
    b"IDAT", b"\xff\xda", b"\xff\xc2", b"\xff\xd9", b"VP8 ", b"ANMF", b"|O", b"'shape': (-1,", b"<f8", b"99999999999",
)  # fmt: skip
"""Pieces that mean something to some reader."""
_NUMBERS = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1)


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a file in one to four places."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 5)):
        _change(changed, rng)
    return bytes(changed[: 4 * len(content) + 20_000])


def _change(changed: bytearray, rng: np.random.Generator) -> None:
    size = len(changed)
    at = int(rng.integers(size + 1)) if rng.random() < 0.7 else int(rng.integers(min(size, 64) + 1))
    end = min(size, at + int(rng.integers(1, 1 << rng.integers(1, 8))))
    match rng.integers(9):
        case 0 if at < size:
            changed[at] ^= 1 << rng.integers(8)
        case 1 if at < size:
            changed[at] = rng.integers(256)
        case 2:
            del changed[at:end]
        case 3:
            changed[at:at] = changed[at:end]
        case 4:
            changed[at:end] = TOKENS[rng.integers(len(TOKENS))]
        case 5:
            changed[at:at] = TOKENS[rng.integers(len(TOKENS))]
        case 6:
            number = _NUMBERS[rng.integers(len(_NUMBERS))] + int(rng.integers(-1, 2))
            width = int(rng.choice([1, 2, 4, 8]))
            order = "little" if rng.random() < 0.7 else "big"
            changed[at : at + width] = (number % (1 << 8 * width)).to_bytes(width, order)
        case 7:
            other = int(rng.integers(size + 1))
            changed[at:at] = changed[other : other + end - at]
        case _ if rng.random() < 0.3:
            del changed[at:]


def of_members(content: bytes, rng: np.random.Generator) -> bytes:
    """Change what one member of a zip archive holds, its checksum with it; now and then the archive itself."""
    if rng.random() < 0.2:
        return mutated(content, rng)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    chosen = rng.integers(len(members))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for number, (info, data) in enumerate(members):
            archive.writestr(info, mutated(data, rng) if number == chosen else data)
    return stream.getvalue()


def of_chunks(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a PNG and make the checksums of its chunks right again; now and then leave them wrong."""
    changed = bytearray(mutated(content, rng))
    at = 8
    while rng.random() < 0.9 and at + 12 <= len(changed):
        (length,) = struct.unpack_from(">I", changed, at)
        end = at + 8 + length
        if end + 4 > len(changed):
            break
        struct.pack_into(">I", changed, end, zlib.crc32(changed[at + 4 : end]))
        at = end + 4
    return bytes(changed)


def of_lines(content: bytes, rng: np.random.Generator) -> bytes:
    """Change a text, and often the order and number of its lines."""
    lines = mutated(content, rng).split(b"\n")
    if rng.random() < 0.3:
        rows: Sequence[int] = rng.integers(len(lines), size=rng.integers(1, len(lines) + 3)).tolist()
        lines = [lines[row] for row in rows]
    return b"\n".join(lines)
