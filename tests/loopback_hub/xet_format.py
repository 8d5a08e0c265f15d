"""The binary formats of Xet that a server must read: xorbs (chunks of content) and shards (file recipes)."""

import struct
from dataclasses import dataclass

CHUNK_HEADER = 8
ENTRY = 48
BOOKEND = b"\xff" * 32
WITH_VERIFICATION = 1 << 31
WITH_METADATA = 1 << 30
SHARD_HEADER = 48
COMPRESSION_NONE, COMPRESSION_LZ4, COMPRESSION_GROUPED_LZ4 = 0, 1, 2


def hash_name(raw: bytes) -> str:
    """Return the text form of a 32-byte Merkle hash: four little-endian words, each as 16 hex digits."""
    return "".join(f"{word:016x}" for word in struct.unpack("<4Q", raw))


@dataclass(frozen=True)
class Chunk:
    """One chunk of a xorb: its position in the serialized xorb, and its content."""

    start: int
    end: int
    data: bytes


@dataclass(frozen=True)
class Term:
    """One stretch of a file: chunks ``[first, last)`` of a xorb."""

    xorb: str
    length: int
    first: int
    last: int


@dataclass(frozen=True)
class FileRecipe:
    """The parts of a file, and its recorded sha256."""

    name: str
    terms: tuple[Term, ...]
    sha256: str | None


def lz4_block(source: bytes, output: bytearray) -> None:
    """Decode one LZ4 block and append it to ``output``; matches may refer to earlier output."""
    position, end = 0, len(source)
    while position < end:
        token = source[position]
        position += 1
        length = token >> 4
        if length == 15:
            while (more := source[position]) == 255:
                length += 255
                position += 1
            length += more
            position += 1
        output += source[position : position + length]
        position += length
        if position >= end:
            return
        offset = source[position] | source[position + 1] << 8
        position += 2
        length = (token & 15) + 4
        if token & 15 == 15:
            while (more := source[position]) == 255:
                length += 255
                position += 1
            length += more
            position += 1
        start = len(output) - offset
        if start < 0 or offset == 0:
            raise ValueError("LZ4: a match before the beginning")
        if offset >= length:
            output += output[start : start + length]
        else:
            piece = bytes(output[start:])
            output += (piece * (length // offset + 1))[:length]


def lz4_frame(source: bytes) -> bytes:
    """Decode an LZ4 frame (checksums are skipped: the sha256 of the file is what counts)."""
    if source[:4] != b"\x04\x22\x4d\x18":
        raise ValueError("not an LZ4 frame")
    flags = source[4]
    position = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    output = bytearray()
    while size := struct.unpack_from("<I", source, position)[0]:
        position += 4
        stored, size = size >> 31, size & 0x7FFFFFFF
        block = source[position : position + size]
        if stored:
            output += block
        else:
            lz4_block(block, output)
        position += size + (4 if flags & 16 else 0)
    return bytes(output)


def ungroup(grouped: bytes) -> bytes:
    """Undo the grouping of bytes by their place in four-byte words."""
    output = bytearray(len(grouped))
    start = 0
    for place in range(4):
        count = (len(grouped) - place + 3) // 4
        output[place::4] = grouped[start : start + count]
        start += count
    return bytes(output)


def read_xorb(serialized: bytes) -> list[Chunk]:
    """Return the chunks of a serialized xorb; a footer after them is not needed and not read."""
    chunks, position = [], 0
    while position + CHUNK_HEADER <= len(serialized) and serialized[position : position + 7] != b"XETBLOB":
        version, kind = serialized[position], serialized[position + 4]
        packed = int.from_bytes(serialized[position + 1 : position + 4], "little")
        unpacked = int.from_bytes(serialized[position + 5 : position + 8], "little")
        start, position = position, position + CHUNK_HEADER + packed
        payload = serialized[start + CHUNK_HEADER : position]
        if version != 0 or len(payload) != packed or kind > COMPRESSION_GROUPED_LZ4:
            raise ValueError("malformed chunk header in a xorb")
        data = payload if kind == COMPRESSION_NONE else lz4_frame(payload)
        data = ungroup(data) if kind == COMPRESSION_GROUPED_LZ4 else data
        if len(data) != unpacked:
            raise ValueError(f"a chunk unpacks to {len(data)} bytes, not {unpacked}")
        chunks.append(Chunk(start, position, data))
    return chunks


def read_shard(shard: bytes) -> list[FileRecipe]:
    """Return the files that a shard registers (its section on xorbs serves deduplication only)."""
    recipes, position = [], SHARD_HEADER
    while shard[position : position + 32] != BOOKEND:
        if position + ENTRY > len(shard):
            raise ValueError("the file section of a shard has no end")
        name, flags, count = (
            hash_name(shard[position : position + 32]),
            *struct.unpack_from("<II", shard, position + 32),
        )
        position += ENTRY
        terms = []
        for _ in range(count):
            _, length, first, last = struct.unpack_from("<4I", shard, position + 32)
            terms.append(Term(hash_name(shard[position : position + 32]), length, first, last))
            position += ENTRY
        position += ENTRY * count if flags & WITH_VERIFICATION else 0
        sha256 = hash_name(shard[position : position + 32]) if flags & WITH_METADATA else None
        position += ENTRY if sha256 else 0
        recipes.append(FileRecipe(name, tuple(terms), sha256))
    return recipes
