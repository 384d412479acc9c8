#!/usr/bin/env python3
"""Reads patches between nibble block files. Written from formats/patch/README.md only; section numbers below are that page's.

As a module, read(path) gives a Patch, whose apply(bytes) makes one block file of the other; as a program it lists what differs, or
applies. Needs what nbl_reader.py beside it needs.
"""
import argparse
import os
import struct
import sys

import numpy as np
import zstandard
from xxhash import xxh3_64_intdigest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from nbl_reader import NblError, NblFile, require  # noqa: E402  (it lies beside this file)

SPAN = 262144
ENTRY = 32


class Head:
    """The bytes a block file begins with, looked at as if all of the file were there."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return struct.unpack_from("<Q", self.data, 32)[0] if len(self.data) >= 64 else 0

    def __getitem__(self, place):
        return self.data[place]


def block_file(data, what):
    """The table of a block file whose header and table are `data`."""
    require(len(data) >= 64, f"{what}: shorter than a header")
    require(len(data) == 64 + struct.unpack_from("<Q", data, 40)[0], f"{what}: not the length of header and table")
    try:
        return NblFile(Head(data))
    except (NblError, OverflowError) as error:
        raise NblError(f"{what}: {error}") from None


def sections(file):
    """Every section by what orders parts (section 4): files before tensors, then names, then kinds."""
    found = {(0, name.encode(), section.kind): section for name, section in file.file_sections.items()}
    for tensor in file.tensors:
        found |= {(1, tensor.name.encode(), section.kind): section for section in tensor.sections}
    return found


class Span:
    def __init__(self, entry, place):
        (self.part, self.number, self.listed, self.gaps, self.stored_gaps, self.stored_values,
         self.checksum) = struct.unpack("<6IQ", entry)
        self.place, self.stored = place, self.stored_gaps + self.stored_values


class Patch:
    """An opened patch. Opening checks what section 7 asks."""

    def __init__(self, data):
        self.data = data
        require(data[:8] == b"\x89NPT\r\n\x1a\n", "no patch: wrong magic")
        require(len(data) >= 80, "cut within the header")
        version, reserved, needed, _, length, first, second, count, content, head = struct.unpack("<II8Q", data[8:80])
        require(version == 1, f"unknown version {version}")
        require(xxh3_64_intdigest(data[:72]) == head, "header: checksum does not hold")
        require(reserved == 0 and needed == 0, "header: reserved bytes or unknown features")
        require(length == len(data), f"header: says {length} bytes, the file has {len(data)}")
        index = length - ENTRY * count
        require(80 + first + second <= index, "header: heads and index do not fit")
        heads = data[80:80 + first + second]
        require(xxh3_64_intdigest(heads + data[index:]) == content, "heads and index: checksum does not hold")
        self.heads = heads[:first], heads[first:]
        self.files = [block_file(one, f"{name} head") for one, name in zip(self.heads, ("first", "second"))]
        self.sections = [sections(file) for file in self.files]
        self.parts = sorted(self.sections[0].keys() | self.sections[1].keys())
        self.lengths = [max((side[part].stored for side in self.sections if part in side), default=0) for part in self.parts]
        self.spans, place, last = [], 80 + first + second, None
        for at in range(index, length, ENTRY):
            span = Span(data[at:at + ENTRY], place)
            require(last is None or last < (span.part, span.number), "a span out of order")
            require(span.part < len(self.parts), f"a span of part {span.part}")
            size = self.size(span)
            require(size > 0, "a span behind the end of its part")
            require(span.gaps == span.stored_gaps == 0 if span.listed == 0 else
                    span.listed <= size and span.gaps <= span.listed + size // 255, "a span with impossible lists")
            last, place = (span.part, span.number), place + span.stored
            self.spans.append(span)
        require(place == index, "the spans do not end where the index begins")

    def size(self, span):
        return min(SPAN, self.lengths[span.part] - span.number * SPAN)

    def difference(self, span):
        """The bytes of a span that are combined with those of the file (section 6)."""
        stored, size = self.data[span.place:span.place + span.stored], self.size(span)
        require(xxh3_64_intdigest(stored) == span.checksum, f"a span at byte {span.place}: checksum does not hold")
        values = unpack(stored[span.stored_gaps:], span.listed or size)
        if not span.listed:
            return np.frombuffer(values, np.uint8)
        gaps = np.frombuffer(unpack(stored[:span.stored_gaps], span.gaps), np.uint8).astype(np.int64)
        lists = gaps != 255
        places = (np.cumsum(gaps) + np.cumsum(lists) - lists)[lists]
        require(len(places) == span.listed and places[-1] < size, f"a span at byte {span.place}: its lists do not fit it")
        out = np.zeros(size, np.uint8)
        out[places] = np.frombuffer(values, np.uint8)
        return out

    def apply(self, data):
        """The other block file, given one of the two; every byte of both is checked."""
        for side, head in enumerate(self.heads):
            if data[:len(head)] == head:
                break
        else:
            raise NblError("is neither of the two files the patch was made of")
        NblFile(data).verify()
        old, new = self.sections[side], self.sections[1 - side]
        parts = []
        for part, length in zip(self.parts, self.lengths):
            section = old.get(part)
            have = data[section.offset:section.offset + section.stored] if section else b""
            parts.append(np.frombuffer(have + bytes(length - len(have)), np.uint8).copy())
        for span in self.spans:
            start = span.number * SPAN
            parts[span.part][start:start + self.size(span)] ^= self.difference(span)
        out = bytearray(self.heads[1 - side].ljust(len(self.files[1 - side].data), b"\0"))
        for part, content in zip(self.parts, parts):
            section = new.get(part)
            if section:
                out[section.offset:section.offset + section.stored] = content[:section.stored].tobytes()
        NblFile(bytes(out)).verify()
        return bytes(out)


def unpack(frame, size):
    try:
        reader = zstandard.ZstdDecompressor().decompressobj()
        plain = reader.decompress(frame)
    except zstandard.ZstdError as error:
        raise NblError(f"zstd: {error}") from None
    require(reader.eof and not reader.unused_data and len(plain) == size, f"a zstd frame that is not {size} bytes")
    return plain


def read(path):
    with open(path, "rb") as file:
        return Patch(file.read())


def main():
    parser = argparse.ArgumentParser(description="Reads patches between nibble block files; lists what differs.")
    parser.add_argument("patch", metavar="TASK.patch")
    parser.add_argument("--apply", nargs=2, metavar=("FILE", "OUT"), help="make the other file")
    options = parser.parse_args()
    try:
        patch = read(options.patch)
        if options.apply:
            with open(options.apply[0], "rb") as file:
                made = patch.apply(file.read())
            with open(options.apply[1], "wb") as out:
                out.write(made)
            return 0
        for file in patch.files:
            print(f"{file.identity}, {len(file.data)} bytes")
        for number, (part, length) in enumerate(zip(patch.parts, patch.lengths)):
            spans = [span for span in patch.spans if span.part == number]
            if spans:
                print(f"{part[1].decode()}, kind {part[2]}: {length} bytes, {sum(span.stored for span in spans)} in {len(spans)} spans")
    except (NblError, OSError) as error:
        print(f"patch_reader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
