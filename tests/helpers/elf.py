"""The symbols of an object file in ELF, by struct: the tools that list them are not on every machine."""

import struct
from typing import NamedTuple

BINDINGS = {0: "local", 1: "global", 2: "weak"}

_SYMBOL_TABLE = 2


class Symbol(NamedTuple):
    name: str
    binding: str
    defined: bool


def symbols(code):
    """The named symbols of a 64-bit little-endian object."""
    assert code[:6] == b"\x7fELF\x02\x01"
    first, size, count = *struct.unpack_from("<Q", code, 0x28), *struct.unpack_from("<HH", code, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", code, first + size * i) for i in range(count)]
    found = []
    for section in sections:
        if section[1] != _SYMBOL_TABLE:
            continue
        names = sections[section[6]][4]
        for at in range(section[4], section[4] + section[5], section[9]):
            name, info, _, where, _, _ = struct.unpack_from("<IBBHQQ", code, at)
            text = code[names + name : code.index(b"\0", names + name)].decode()
            if text:
                found.append(Symbol(text, BINDINGS[info >> 4], where != 0))
    return found
