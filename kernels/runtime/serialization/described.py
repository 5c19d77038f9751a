"""Descriptions of a call's arguments, by type and size, from the bytes that the codec wrote.

No object is rebuilt and nothing is imported: the reader may be the supervisor, and the bytes may be damaged.
The tags are those of `writer.pxi`.
"""

from __future__ import annotations

import struct

#: Types of NumPy by their numbers, as far as the native codec writes their arrays.
DTYPES = (
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "int64", "uint64"),
    *("float32", "float64", "longdouble", "complex64", "complex128", "clongdouble"),
)
HALF = 23

#: What a tag stands for whose value has no parts, and the bytes after it.
PLAIN = {
    "N": ("None", 0),
    "T": ("bool", 0),
    "F": ("bool", 0),
    "i": ("int", 8),
    "f": ("float", 8),
    "R": ("a future's value", 4),
}
SIZED = {"I": "int of {:,} bytes", "s": "str of {:,} bytes", "b": "bytes of {:,}", "w": "bytearray of {:,}"}
PLACED = {"S": "str of {:,} bytes", "B": "bytes of {:,}", "V": "buffer of {:,} bytes"}
CONTAINERS = {"(": "tuple", "[": "list"}

#: Bytes of a class's identity and place; see `class_layouts.pxi`.
PLACE_BYTES = 16 + 8 + 8

#: Arguments that are described one by one.
MOST_ARGUMENTS = 8


class Reader:
    """Steps over values in the codec's bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def word(self) -> int:
        return int(self._unpack("<Q", 8))

    def _unpack(self, layout: str, nbytes: int) -> int:
        (found,) = struct.unpack_from(layout, self._data, self._at)
        self._at += nbytes
        return found  # type: ignore[no-any-return]

    def tag(self) -> str:
        found = chr(self._data[self._at])
        self._at += 1
        return found

    def skip(self, nbytes: int) -> None:
        self._at += nbytes

    def describe(self) -> str:
        """Step over a value; return its type and size.

        Raises
        ------
        IndexError, ValueError, RecursionError, struct.error
            The bytes end before, or are damaged.
        """
        tag = self.tag()
        if tag in PLAIN:
            text, nbytes = PLAIN[tag]
            self.skip(nbytes)
            return text
        if tag in SIZED or tag in PLACED:
            if tag in PLACED:
                self.skip(8)
            size = self.word()
            self.skip(size if tag in SIZED else 0)
            return (SIZED | PLACED)[tag].format(size)
        if tag in CONTAINERS or tag == "{":
            return self._container(tag)
        if tag in "qd":
            count = self.word()
            self.skip(8 * count)
            return f"list of {count:,} {'int' if tag == 'q' else 'float'}s"
        if tag in "aA":
            return self._array(tag)
        if tag in "oOEM":
            return self._object(tag)
        if tag == "P":
            return self._pickle()
        raise ValueError(f"tag of a value: expected a known one, got {tag!r}")

    def _container(self, tag: str) -> str:
        count = self.word()
        for _ in range(count if tag in CONTAINERS else 2 * count):
            self.describe()
        return f"{CONTAINERS.get(tag, 'dict')} of {count:,}"

    def _array(self, tag: str) -> str:
        number, dimensions = ord(self.tag()), ord(self.tag())
        self.skip(2)
        shape = tuple(self.word() for _ in range(dimensions))
        self.skip(8 * dimensions + 8 if tag == "A" else 0)
        dtype = DTYPES[number] if number < len(DTYPES) else "float16" if number == HALF else "ndarray"
        items = 1
        for length in shape:
            items *= length
        bits = "".join(filter(str.isdigit, dtype))
        nbytes = items * (int(bits) // 8 if bits else {"longdouble": 16, "clongdouble": 32}.get(dtype, 1))
        if tag == "a":
            self.skip(nbytes)
        return f"{dtype} array {shape}, {nbytes:,} bytes"

    def _object(self, tag: str) -> str:
        self.skip(PLACE_BYTES if tag in "OE" else 8)
        if tag == "E":
            self.describe()
        if tag in "EM":
            return "member of an enum, or an object named before"
        for _ in range(3):  # its items, attributes and slots
            self.describe()
        return "object"

    def _pickle(self) -> str:
        size = self.describe()
        buffers, arrays = self._unpack("<I", 4), self._unpack("<I", 4)
        beside = [self.describe() for _ in range(buffers + arrays)]
        return f"pickled {size}" + (f" with {', '.join(beside[:MOST_ARGUMENTS])}" if beside else "")


def described_arguments(data: bytes, pickled: bool, nbytes: int) -> list[str]:
    """Return the types and sizes of a call's arguments.

    Parameters
    ----------
    data : bytes
        What the codec wrote, or the first bytes of that.
    pickled : bool
        All arguments are one pickle.
    nbytes : int
        How many bytes it wrote.
    """
    reader = Reader(data)
    found: list[str] = []
    try:
        if pickled:
            return [reader.describe()]
        reader.tag()
        count = reader.word()
        for _ in range(min(count, MOST_ARGUMENTS)):
            found.append(reader.describe())
        if count > MOST_ARGUMENTS:
            found.append(f"{count - MOST_ARGUMENTS} more")
        elif reader.tag() == "{":
            for _ in range(min(reader.word(), MOST_ARGUMENTS)):
                found.append(f"{_name(reader)}: {reader.describe()}")
    except (IndexError, ValueError, RecursionError, struct.error):  # there is more than the first bytes, or they are damaged
        found.append(f"the rest of {nbytes:,} bytes")
    return found


def _name(reader: Reader) -> str:
    """Return the name of a keyword argument."""
    reader.tag()
    size = reader.word()
    text = reader._data[reader._at : reader._at + size]
    reader.skip(size)
    return text.decode("utf-8", "replace")
