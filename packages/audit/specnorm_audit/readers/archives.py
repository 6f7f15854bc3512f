"""Read zip archives that have only one interpretation; an archive that two readers could read differently is refused.

The format states everything twice: in headers and in a directory, in the directory and in a second (zip64) one. Some
readers ignore the case of names or cut them short. Python's `zipfile` and torch's miniz choose differently. Here the
archive is parsed once, and accepted only if both statements agree.

Source: PKWARE, APPNOTE.TXT 6.3.10, sections 4.3.7 (local header), 4.3.12 (directory), 4.3.14 to 4.3.16 (its end).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from specnorm.errors import ModelFileError
from specnorm.proof import counted

_END = struct.Struct("<4s4H2IH")
"""End of the central directory (4.3.16)."""
_LOCATOR = struct.Struct("<4sIQI")
"""Locator of the zip64 end (4.3.15)."""
_END64 = struct.Struct("<4sQ2H2I4Q")
"""Zip64 end of the central directory (4.3.14)."""
_ENTRY = struct.Struct("<4s6H3I5H2I")
"""Entry of the central directory (4.3.12)."""
_LOCAL = struct.Struct("<4s5H3I2H")
"""Local header (4.3.7)."""
_ZIP64 = 1
"""Number of the extra field with 64-bit sizes."""
_MOST_16 = 2**16 - 1
_MOST_32 = 2**32 - 1
"""Numbers in a field of 16 or 32 bits whose value is in the zip64 directory."""
_ENCRYPTED = 1
"""Bit of an entry's flags."""
_FOLDER = 0x10
"""Bit of an entry's attributes."""
_LONGEST_NAME = 400
"""Largest number of bytes of a name; miniz cuts names at 511."""
_CHUNK = 2**24
"""Number of bytes that are read at a time for a checksum."""
_MOST_DIRECTORY = 100_000_000
"""Largest number of bytes of a directory; an entry takes about 60."""


@dataclass(frozen=True)
class Entry:
    """An entry without compression."""

    name: str
    start: int
    """Position of its first byte in the file."""
    size: int
    crc: int
    """Checksum that the archive states."""

    def check(self, file: BinaryIO) -> None:
        """Compare the checksum with that of the bytes, which are read in parts."""
        file.seek(self.start)
        crc = 0
        for left in range(self.size, 0, -_CHUNK):
            crc = zlib.crc32(file.read(min(left, _CHUNK)), crc)
        if crc != self.crc:
            raise ModelFileError(f"its entry {self.name!r} is damaged: its checksum does not match.")

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
            raise _ambiguous(
                f"its zip directory should have {counted(count, 'entry', 'entries')}, but it has {len(listed)}"
            )
        entries: dict[str, Entry] = {}
        lower_names = set()
        end_of_entries = 0
        for raw_name, offset, length, crc in sorted(listed, key=lambda entry: entry[1]):
            if raw_name.lower() in lower_names:
                raise ModelFileError(
                    f"two of its entries have the same name ({_shown(raw_name)}), but for upper and lower case."
                )
            lower_names.add(raw_name.lower())
            if offset < end_of_entries or (not entries and offset != 0):
                raise ModelFileError("its zip archive has extra bytes around it, or entries that overlap.")
            data_start = _data_start(file, raw_name, offset, length)
            end_of_entries = data_start + length
            name = raw_name.decode()  # raises if it is not UTF-8
            entries[name] = Entry(name, data_start, length, crc)
        if end_of_entries > start:
            raise ModelFileError("its entries claim more bytes than the file has.")
        return entries
    except struct.error as error:
        raise ModelFileError("its zip archive is damaged or cut short.") from error


def _directory_place(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """Return start and end of the directory and its number of entries, by its end, or by two ends that agree."""
    end = size - _END.size
    mark, disk, first_disk, count_on_disk, count, length, start, comment = _END.unpack(_bytes(file, end, _END.size))
    if mark != b"PK\5\6" or comment:
        raise ModelFileError("its zip archive has extra bytes around it, or is cut short. Save it again.")
    fields = (count_on_disk, count, length, start)
    disks = {(disk, first_disk)}
    locator = _bytes(file, end - _LOCATOR.size, _LOCATOR.size) if end >= _LOCATOR.size else b""
    if locator.startswith(b"PK\6\7"):
        _, disk, stated_end, _ = _LOCATOR.unpack(locator)
        end -= _LOCATOR.size + _END64.size
        mark, length64, _, _, disk64, first_disk64, *fields64 = _END64.unpack(_bytes(file, end, _END64.size))
        disks |= {(disk, 0), (disk64, first_disk64)}
        count_on_disk, count, length, start = fields64
        # The stated length does not count the first 12 bytes, which are the mark and the length itself.
        if mark != b"PK\6\6" or stated_end != end or length64 != _END64.size - 12:
            raise _ambiguous("its second (zip64) directory is not where the first one ends")
        largest = (_MOST_16, _MOST_16, _MOST_32, _MOST_32)
        for field, field64, placeholder in zip(fields, fields64, largest, strict=True):
            if field not in (field64, placeholder):
                raise _ambiguous("the two ends of its directory (zip and zip64) differ")
    if disks != {(0, 0)} or count_on_disk != count or start + length != end:
        raise _ambiguous(
            "its zip archive has extra bytes around it, or its directory is not where the archive's end states"
        )
    return start, end, count


def _listed(directory: bytes) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield name, offset of the header, size and checksum of each entry of a directory."""
    position = 0
    while position < len(directory):
        fields = _ENTRY.unpack_from(directory, position)
        mark, _, _, flags, method, _, _, crc, packed, size = fields[:10]
        name_length, extra_length, comment_length, disk, _, attributes, offset = fields[10:]
        name_start = position + _ENTRY.size
        extra_start = name_start + name_length
        extra_end = extra_start + extra_length
        name = directory[name_start:extra_start]
        position = extra_end + comment_length
        if mark != b"PK\1\2" or position > len(directory) or disk:
            raise ModelFileError("its zip directory is damaged.")
        # The zip64 field has the 64-bit values in this order, without those that fit 32 bits.
        values64 = _zip64_values(directory[extra_start:extra_end])
        size = next(values64) if size == _MOST_32 else size
        packed = next(values64) if packed == _MOST_32 else packed
        offset = next(values64) if offset == _MOST_32 else offset
        if attributes & _FOLDER:  # torch's reader then returns uninitialised memory
            raise _ambiguous(f"{_shown(name)} is marked as a folder")
        if method or size != packed or flags & _ENCRYPTED:
            raise ModelFileError("its entries are compressed, which torch.save never does. Save it again.")
        if not 0 < len(name) <= _LONGEST_NAME or min(name) < 32:
            raise ModelFileError(f"one of its entries is called {_shown(name)}, which torch.save never does.")
        yield name, offset, size, crc


def _zip64_values(extra: bytes) -> Iterator[int]:
    """Yield the 64-bit values of an entry's zip64 field, of which there may be one; raise if there are no more."""
    zip64_field = b""
    while extra:
        number, length = struct.unpack_from("<2H", extra)
        body = extra[4 : 4 + length]
        extra = extra[4 + length :]
        if number == _ZIP64:
            if zip64_field or len(body) != length:
                raise _ambiguous("an entry has two zip64 fields, or a part of one")
            zip64_field = body
    for start in range(0, len(zip64_field), 8):
        yield struct.unpack_from("<Q", zip64_field, start)[0]
    raise ModelFileError("its zip directory is damaged: a 64-bit size is missing.")


def _data_start(file: BinaryIO, name: bytes, offset: int, size: int) -> int:
    """Return the position of an entry's data; refuse a header that contradicts the directory."""
    fields = _LOCAL.unpack(_bytes(file, offset, _LOCAL.size))
    mark, _, flags, method, _, _, _, packed, unpacked, name_length, extra_length = fields
    if mark != b"PK\3\4" or method or flags & _ENCRYPTED or file.read(name_length) != name:
        raise _ambiguous(f"the header of {_shown(name)} has another name or kind than the directory")
    # A size of 0 is stated after the data, or in the directory alone.
    if packed not in (0, _MOST_32, size) or unpacked not in (0, _MOST_32, size):
        raise _ambiguous(f"the header of {_shown(name)} has another size than the directory")
    start: int = offset + _LOCAL.size + name_length + extra_length
    return start


def _bytes(file: BinaryIO, position: int, count: int) -> bytes:
    """Read bytes at a position of a file."""
    if position < 0:
        raise ModelFileError("its zip archive is damaged or cut short.")
    file.seek(position)
    return file.read(count)


def _shown(name: bytes) -> str:
    return repr(name[:80].decode("utf-8", "replace"))


def _ambiguous(what: str) -> ModelFileError:
    return ModelFileError(f"its zip archive can be read in two ways: {what}. Save it again with torch.save.")
