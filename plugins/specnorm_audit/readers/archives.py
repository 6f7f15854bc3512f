"""Zip archives that every reader sees alike: anything that two readers could take for two archives is refused.

The format states everything twice: a directory beside the headers, a second (zip64) directory beside the first, names
that some readers fold or cut short. Python's `zipfile` and torch's miniz choose differently between the two. Here the
archive is parsed once, and accepted only if there is nothing to choose.

Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from specnorm.errors import ModelFileError

_END, _LOCATOR, _END64 = struct.Struct("<4s4H2IH"), struct.Struct("<4sIQI"), struct.Struct("<4sQ2H2I4Q")
_ENTRY, _LOCAL = struct.Struct("<4s6H3I5H2I"), struct.Struct("<4s5H3I2H")
_ZIP64 = 1
_MOST_16, _MOST_32 = 2**16 - 1, 2**32 - 1
"""What a field holds whose value stands in the zip64 directory."""
_ENCRYPTED, _FOLDER = 1, 0x10
_LONGEST_NAME = 400
"""Bytes; miniz cuts names at 511."""
_CHUNK = 2**24
"""Bytes of which a checksum is taken at a time."""
_MOST_DIRECTORY = 100_000_000
"""Bytes of a directory that is read; an entry takes about 60."""


@dataclass(frozen=True)
class Entry:
    """A stored entry: where its bytes lie in the file."""

    name: str
    start: int
    size: int
    crc: int

    def check(self, file: BinaryIO) -> None:
        """Compare the checksum, without holding the bytes."""
        file.seek(self.start)
        found = 0
        for left in range(self.size, 0, -_CHUNK):
            found = zlib.crc32(file.read(min(left, _CHUNK)), found)
        if found != self.crc:
            raise ModelFileError(f"its entry {self.name!r} is damaged: the checksum is another.")

    def read(self, file: BinaryIO) -> bytes:
        """Read the bytes."""
        self.check(file)
        file.seek(self.start)
        return file.read(self.size)


def stored_entries(file: BinaryIO) -> dict[str, Entry]:
    """List the entries of an archive without compression."""
    size = file.seek(0, 2)
    try:
        start, end, count = _directory_place(file, size)
        if end - start > _MOST_DIRECTORY:
            raise ModelFileError(f"its zip directory has more than {_MOST_DIRECTORY} bytes.")
        file.seek(start)
        listed = list(_listed(file.read(end - start)))
        if len(listed) != count:
            raise _ambiguous(f"one end of its directory counts {count} entries, the directory has {len(listed)}")
        found: dict[str, Entry] = {}
        folded = set()
        reached = 0
        for raw, offset, length, crc in sorted(listed, key=lambda entry: entry[1]):
            if raw.lower() in folded:
                raise ModelFileError(f"two of its entries have one name ({_shown(raw)}), but for upper and lower case.")
            folded.add(raw.lower())
            if offset < reached or (not found and offset != 0):
                raise ModelFileError("something is written around its zip archive, or its entries overlap.")
            begin = _data_start(file, raw, offset, length)
            reached = begin + length
            name = raw.decode()  # which raises where it is no text
            found[name] = Entry(name, begin, length, crc)
        if reached > start:
            raise ModelFileError("its entries claim more bytes than the file has.")
        return found
    except struct.error as error:
        raise ModelFileError("its zip archive is damaged or cut short.") from error


def _directory_place(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Where the directory starts and ends, and how many entries it has: by one end of it, or by two that agree."""
    at = size - _END.size
    mark, disk, first_disk, here, count, length, start, comment = _END.unpack(_bytes(file, at, _END.size))
    if mark != b"PK\5\6" or comment:
        raise ModelFileError("something is written around its zip archive, or it is cut short. Save it again.")
    short = (here, count, length, start)
    disks = {(disk, first_disk)}
    locator = _bytes(file, at - _LOCATOR.size, _LOCATOR.size) if at >= _LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        _, disk, place, _ = _LOCATOR.unpack(locator)
        at -= _LOCATOR.size + _END64.size
        mark, length64, _, _, *rest = _END64.unpack(_bytes(file, at, _END64.size))
        disks |= {(disk, 0), (rest[0], rest[1])}
        here, count, length, start = rest[2:]
        if mark != b"PK\6\6" or place != at or length64 != _END64.size - 12:
            raise _ambiguous("its second (zip64) directory is not where the first one ends")
        most = (_MOST_16, _MOST_16, _MOST_32, _MOST_32)
        if any(a not in (b, top) for a, b, top in zip(short, (here, count, length, start), most, strict=True)):
            raise _ambiguous("the two ends of its directory (zip and zip64) differ")
    if disks != {(0, 0)} or here != count or start + length != at:
        raise _ambiguous("something is written around its zip archive, or its directory is not where its end says")
    return start, at, count


def _listed(directory: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    at = 0
    while at < len(directory):
        fields = _ENTRY.unpack_from(directory, at)
        mark, flags, method, crc, packed, size = fields[0], fields[3], fields[4], *fields[7:10]
        *lengths, disk, _, attributes, offset = fields[10:]
        begin, at = at + _ENTRY.size, at + _ENTRY.size + sum(lengths)
        name = directory[begin : begin + lengths[0]]
        if mark != b"PK\1\2" or at > len(directory) or disk:
            raise ModelFileError("its zip directory is damaged.")
        wide = _wide(directory[begin + lengths[0] : begin + lengths[0] + lengths[1]])
        size, packed, offset = (next(wide) if n == _MOST_32 else n for n in (size, packed, offset))
        if attributes & _FOLDER:  # torch's reader then gives memory that nothing was written to
            raise _ambiguous(f"{_shown(name)} is marked as a folder")
        if method or size != packed or flags & _ENCRYPTED:
            raise ModelFileError("its entries are compressed, which torch.save never does. Save it again.")
        if not 0 < len(name) <= _LONGEST_NAME or min(name) < 32:
            raise ModelFileError(f"one of its entries is called {_shown(name)}, which torch.save never does.")
        yield name, offset, size, crc


def _wide(extra: bytes) -> Iterator[int]:
    """64-bit values of an entry's zip64 field, which may stand there once."""
    found = b""
    while extra:
        kind, length = struct.unpack_from("<2H", extra)
        body, extra = extra[4 : 4 + length], extra[4 + length :]
        if kind == _ZIP64:
            if found or len(body) != length:
                raise _ambiguous("an entry has two zip64 fields, or a part of one")
            found = body
    for at in range(0, len(found), 8):
        yield struct.unpack_from("<Q", found, at)[0]
    raise ModelFileError("its zip directory is damaged: a 64-bit size is missing.")


def _data_start(file: BinaryIO, name: bytes, offset: int, size: int) -> int:
    """Where the data of an entry starts, whose own header must not contradict the directory."""
    fields = _LOCAL.unpack(_bytes(file, offset, _LOCAL.size))
    mark, method, sizes, length, extra = fields[0], fields[3], fields[7:9], fields[9], fields[10]
    if mark != b"PK\3\4" or method or fields[2] & _ENCRYPTED or file.read(length) != name:
        raise _ambiguous(f"the header of {_shown(name)} has another name or kind than the directory")
    if any(n not in (0, _MOST_32, size) for n in sizes):  # zero: it stands after the data, or in the directory alone
        raise _ambiguous(f"the header of {_shown(name)} has another size than the directory")
    start: int = offset + _LOCAL.size + length + extra
    return start


def _bytes(file: BinaryIO, at: int, count: int) -> bytes:
    if at < 0:
        raise ModelFileError("its zip archive is damaged or cut short.")
    file.seek(at)
    return file.read(count)


def _shown(name: bytes) -> str:
    return repr(name[:80].decode("utf-8", "replace"))


def _ambiguous(what: str) -> ModelFileError:
    return ModelFileError(f"its zip archive can be read in two ways: {what}. Save it again with torch.save.")
