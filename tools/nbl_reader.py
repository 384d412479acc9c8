#!/usr/bin/env python3
"""Reads nibble block files (.nbl). Written from formats/nbl/README.md alone; section numbers below are that page's.

As a module: read(path) gives an NblFile. As a program: list, --verify, --extract, --safetensors.
"""
import argparse
import json
import mmap
import os
import re
import struct
import sys
from dataclasses import dataclass
from typing import List, Optional, Tuple

import numpy as np
import xxhash
import zstandard

MAGIC = b"\x89NBL\r\n\x1a\n"
FRAME = 262144  # plain bytes of a zstd frame
PLAIN, NF4, FP4 = 0, 1, 2
CODECS = {PLAIN: "plain", NF4: "nf4", FP4: "fp4"}
DATA, CODES, SCALES, SCALE_CODES, NESTED_SCALES, NESTED_OFFSET, STATE_TEXT, FILE = range(1, 9)

# Section 6: name, bits and the NumPy type of an element. BF16 and the 8-bit floats come as unsigned integers of their width,
# 4- and 6-bit floats as the bytes they are packed in.
DTYPES = [("BOOL", 8, "?"), ("F4", 4, None), ("F6_E2M3", 6, None), ("F6_E3M2", 6, None), ("U8", 8, "u1"), ("I8", 8, "i1"),
          ("F8_E5M2", 8, "u1"), ("F8_E4M3", 8, "u1"), ("F8_E8M0", 8, "u1"), ("I16", 16, "<i2"), ("U16", 16, "<u2"),
          ("F16", 16, "<f2"), ("BF16", 16, "<u2"), ("I32", 32, "<i4"), ("U32", 32, "<u4"), ("F32", 32, "<f4"),
          ("C64", 64, "<c8"), ("F64", 64, "<f8"), ("I64", 64, "<i8"), ("U64", 64, "<u8")]


class NblError(Exception):
    """The file must be refused; the message names what is wrong."""


def require(condition, message):
    if not condition:
        raise NblError(message)


def to_float32(bits):
    """Widens BF16, given as uint16, to float32; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values):
    """Rounds float32 to BF16 as uint16, to nearest even; a NaN stays one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


class Cursor:
    """Takes the table apart from front to back."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, count, what):
        require(count <= len(self.data) - self.place, f"the table ends within {what}")
        self.place += count
        return self.data[self.place - count:self.place]

    def number(self, size, what):
        return int.from_bytes(self.take(size, what), "little")

    def text(self, what):
        try:
            return self.take(self.number(4, what), what).decode("utf-8")
        except UnicodeDecodeError:
            raise NblError(f"{what} is not UTF-8") from None

    def section(self, what):
        kind, compression, zero, offset, stored, plain, checksum = struct.unpack("<HB5sQQQQ", self.take(40, what))
        require(zero == bytes(5), f"reserved bytes of {what} are not zero")
        require(compression <= 3, f"{what} has unknown compression {compression}")
        require(offset % 64 == 0, f"offset of {what} is no multiple of 64")
        if compression == 0:
            require(plain == stored, f"plain and stored length of {what} differ")
        require(plain % {2: 2, 3: 4}.get(compression, 1) == 0, f"plain length of {what} does not split into planes")
        return Section(what, kind, compression, offset, stored, plain, checksum)


@dataclass
class Section:
    what: str
    kind: int
    compression: int
    offset: int
    stored: int
    plain: int
    checksum: int


@dataclass
class Tensor:
    file: "NblFile"
    name: str
    dtype: str
    bits: int
    transposed: bool            # the model's own tensor is the transpose of this one
    shape: Tuple[int, ...]      # as stored
    count: int
    codec: str
    digest: bytes
    sections: List[Section]
    head: bytes                 # what section 8 hashes before the digest
    block: int = 0
    nested: int = 0
    codebook: Optional[np.ndarray] = None
    nested_codebook: Optional[np.ndarray] = None

    def plain_bytes(self, kind):
        return next(self.file.plain_bytes(s) for s in self.sections if s.kind == kind)

    def decode(self):
        """The elements as stored, as a NumPy array of the tensor's dtype (see DTYPES for those that NumPy lacks)."""
        require(self.codec in CODECS.values(), f"tensor {self.name!r}: {self.codec} is unknown")
        numpy_type = next(t for name, _, t in DTYPES if name == self.dtype)
        if self.codec == "plain":
            data = np.frombuffer(self.plain_bytes(DATA), numpy_type or "u1")
            return data.reshape(self.shape) if numpy_type else data
        pairs = np.frombuffer(self.plain_bytes(CODES), np.uint8)
        codes = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:self.count]
        with np.errstate(all="ignore"):
            absmax = np.repeat(self.absmax(), self.block)[:self.count]
            values = (self.codebook[codes] * absmax).reshape(self.shape)
            return to_bfloat16(values) if self.dtype == "BF16" else values.astype(numpy_type)

    def absmax(self):
        if not self.nested:
            return np.frombuffer(self.plain_bytes(SCALES), "<f4")
        codes = np.frombuffer(self.plain_bytes(SCALE_CODES), np.uint8)
        scales = np.frombuffer(self.plain_bytes(NESTED_SCALES), "<f4")
        offset = np.frombuffer(self.plain_bytes(NESTED_OFFSET), "<f4")
        return self.nested_codebook[codes] * scales[np.arange(len(codes)) // self.nested] + offset


class NblFile:
    """An opened file: everything that section 9 wants checked at opening has been checked."""

    def __init__(self, data):
        self.data = data
        require(len(data) >= 64, "shorter than the 64 bytes of a header")
        magic, version, reserved, needed, _, length, table_length, table_sum, header_sum = struct.unpack("<8sII6Q", data[:64])
        require(magic == MAGIC, "not a nibble block file: wrong magic")
        require(version == 1, f"version {version} is unknown")
        require(xxhash.xxh3_64_intdigest(data[:56]) == header_sum, "header checksum does not hold")
        require(reserved == 0, "reserved word of the header is not zero")
        require(needed == 0, f"required features {needed:#x} are unknown")
        require(length == len(data), f"the header says {length} bytes, the file has {len(data)}")
        require(table_length <= length - 64, "the table is longer than the file")
        table = data[64:64 + table_length]
        require(xxhash.xxh3_64_intdigest(table) == table_sum, "table checksum does not hold")

        self.gaps = []          # (first, end) of the bytes between two parts
        cursor = Cursor(table)
        self.identity_bytes = cursor.take(16, "identity")
        self.identity = self.identity_bytes.hex()
        books, texts, files, tensors = struct.unpack("<4I", cursor.take(16, "the counts"))
        self.codebooks = [self._codebook(cursor, f"codebook {i}") for i in range(books)]
        self.texts = [(cursor.text(f"key of text {i}"), cursor.text(f"text {i}")) for i in range(texts)]
        self.file_sections = {}
        for name, section in self._ascending(files, lambda i: self._file(cursor, f"small file {i}"), lambda f: f[0]):
            self.file_sections[name] = section
        self.tensors = self._ascending(tensors, lambda i: self._tensor(cursor, f"tensor {i}"), lambda t: t.name)
        require(cursor.place == table_length, "something follows the last tensor of the table")
        self.sections = [*self.file_sections.values(), *(s for t in self.tensors for s in t.sections)]
        self._layout(64 + table_length)

    @staticmethod
    def _ascending(count, one, key):
        items = []
        for i in range(count):
            items.append(one(i))
            require(i == 0 or key(items[-2]).encode() < key(items[-1]).encode(),
                    f"name {key(items[-1])!r} is out of order or there twice")
        return items

    @staticmethod
    def _codebook(cursor, what):
        count = cursor.number(4, what)
        require(count in (16, 256), f"{what} has {count} values")
        values = np.frombuffer(cursor.take(4 * count, what), "<f4")
        require(np.isfinite(values).all(), f"{what} is not finite")
        return values

    @staticmethod
    def _file(cursor, what):
        name = cursor.text(what)
        require("/" not in name, f"name of small file {name!r} contains a slash")
        section = cursor.section(f"small file {name!r}")
        require(section.kind == FILE, f"small file {name!r} has a section of kind {section.kind}")
        return name, section

    def _book(self, number, count, what):
        require(number < len(self.codebooks) and len(self.codebooks[number]) == count,
                f"{what}: number {number} is no codebook with {count} values")
        return self.codebooks[number]

    def _tensor(self, cursor, what):
        name = cursor.text(what)
        what = f"tensor {name!r}"
        dtype, flags, sections, rank = struct.unpack("<BBHI", cursor.take(8, what))
        require(dtype < len(DTYPES), f"{what}: dtype {dtype} is unknown")
        require(flags <= 1, f"{what}: flags {flags:#x} are unknown")
        require(rank <= 1000, f"{what}: rank {rank} is above 1000")
        shape = struct.unpack(f"<{rank}Q", cursor.take(8 * rank, what))
        count, (dtype_name, bits, _) = 1, DTYPES[dtype]
        for dimension in shape:
            count *= dimension
        require(count * bits < 2 ** 66 and count < 2 ** 63, f"{what}: too many elements")
        codec, parameters = struct.unpack("<HH", cursor.take(4, what))
        parameters = cursor.take(parameters, what)
        digest = cursor.take(16, what)
        raw = name.encode()
        head = struct.pack("<I", len(raw)) + raw + struct.pack(f"<BI{rank}QH", dtype, rank, *shape, codec)
        tensor = Tensor(self, name, dtype_name, bits, flags == 1, shape, count, CODECS.get(codec, f"codec {codec}"), digest,
                        [cursor.section(f"section {i} of {what}") for i in range(sections)], head)
        expected = None
        if codec == PLAIN:
            require(len(parameters) == 0, f"{what}: a plain tensor has parameters")
            require(count * bits % 8 == 0, f"{what}: not a whole number of bytes")
            expected = [(DATA, count * bits // 8)]
        elif codec in CODECS:
            expected = self._packed(tensor, parameters, what)
        if expected is not None:
            found = [(s.kind, s.plain) for s in tensor.sections]
            if codec != PLAIN and found and found[-1][0] == STATE_TEXT:
                found.pop()
            require(found == expected, f"{what}: sections are (kind, length) {found}, must be {expected}")
        return tensor

    def _packed(self, tensor, parameters, what):
        """Takes the parameters of NF4 and FP4 (section 7); returns kinds and plain lengths of the sections."""
        require(len(parameters) == 16, f"{what}: {len(parameters)} bytes of parameters, must be 16")
        require(tensor.dtype in ("F32", "F16", "BF16"), f"{what}: {tensor.dtype} cannot be packed")
        block, nested, book, nested_book, _, zero = struct.unpack("<IIHHB3s", parameters)
        require(block in [32 << i for i in range(8)], f"{what}: block size {block}")
        require(nested <= 1048576, f"{what}: nested block size {nested}")
        require(zero == bytes(3), f"{what}: reserved bytes of the parameters are not zero")
        tensor.block, tensor.nested, tensor.codebook = block, nested, self._book(book, 16, what)
        blocks, codes = -(-tensor.count // block), (CODES, -(-tensor.count // 2))
        tensor.head += struct.pack("<II", block, nested) + tensor.codebook.tobytes()
        if not nested:
            require(nested_book == 65535, f"{what}: codebook {nested_book} for scales that are not coded")
            return [codes, (SCALES, 4 * blocks)]
        tensor.nested_codebook = self._book(nested_book, 256, what)
        tensor.head += tensor.nested_codebook.tobytes()
        return [codes, (SCALE_CODES, blocks), (NESTED_SCALES, 4 * -(-blocks // nested)), (NESTED_OFFSET, 4)]

    def _layout(self, end):
        for section in self.sections:
            start = -(-end // 64) * 64
            require(section.offset == start, f"{section.what} is at {section.offset}, must be at {start}")
            self.gaps.append((end, start))
            end = start + section.stored
        require(end == len(self.data), f"parts end at {end}, the file has {len(self.data)} bytes")

    @property
    def files(self):
        """The small files: name to bytes."""
        return {name: self.plain_bytes(section) for name, section in self.file_sections.items()}

    def plain_bytes(self, section):
        """The bytes of a section, its checksum checked, decompressed (section 5)."""
        stored = self.data[section.offset:section.offset + section.stored]
        require(xxhash.xxh3_64_intdigest(stored) == section.checksum, f"checksum of {section.what} does not hold")
        if section.compression == 0:
            return stored
        frames = -(-section.plain // FRAME)
        place = section.stored - 4 * frames
        require(place >= 0, f"{section.what} is too short for its frame lengths")
        lengths = struct.unpack(f"<{frames}I", stored[place:])
        require(sum(lengths) == place, f"frame lengths of {section.what} do not add up")
        plain, place = [], 0
        for i, length in enumerate(lengths):
            frame = stored[place:place + length]
            size, place = min(FRAME, section.plain - i * FRAME), place + length
            plain.append(self._frame(frame, size, f"frame {i} of {section.what}", {2: 2, 3: 4}.get(section.compression, 1)))
        return b"".join(plain)

    @staticmethod
    def _frame(frame, size, what, planes):
        try:
            require(zstandard.frame_content_size(frame) in (-1, size), f"{what} has another length")
            data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise NblError(f"{what}: {error}") from None
        require(len(data) == size, f"{what} has another length")
        return np.frombuffer(data, np.uint8).reshape(planes, -1).T.tobytes()

    def verify(self):
        """Reads every byte and checks all that the specification says; raises NblError at the first that does not hold."""
        for first, end in self.gaps:
            require(not any(self.data[first:end]), f"padding before byte {end} is not zero")
        for section in self.file_sections.values():
            self.plain_bytes(section)
        identity = xxhash.xxh3_128()
        for tensor in self.tensors:
            what, content = f"tensor {tensor.name!r}", xxhash.xxh3_128()
            require(tensor.codec in CODECS.values(), f"{what}: {tensor.codec} is unknown")
            for section in tensor.sections:
                plain = self.plain_bytes(section)
                if section.kind == STATE_TEXT:
                    self._json(plain, section.what)
                else:
                    content.update(plain)
            require(content.digest() == tensor.digest, f"digest of {what} does not hold")
            identity.update(tensor.head + tensor.digest)
        require(identity.digest() == self.identity_bytes, "identity does not hold")
        for key, text in self.texts:
            value = self._json(text, f"text {key!r}") if key in ("metadata", "provenance") else {}
            require(isinstance(value, dict), f"text {key!r} is no JSON object")
            if key == "metadata":
                require(all(isinstance(v, str) for v in value.values()), "metadata holds something that is no text")
            elif "source" in value:
                source = value["source"]
                require(isinstance(source, str) and re.fullmatch("[0-9a-fA-F]{32}", source), "source is no identity")

    @staticmethod
    def _json(text, what):
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise NblError(f"{what} is not JSON") from None


def read(path):
    with open(path, "rb") as file:
        empty = os.fstat(file.fileno()).st_size == 0
        return NblFile(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def write_safetensors(path, file):
    """Every tensor decoded and turned the model's own way round; F16, BF16 and packed ones as F32, the others as they are."""
    header, place = {}, 0
    metadata = [json.loads(text) for key, text in file.texts if key == "metadata"]
    if metadata:
        header["__metadata__"] = metadata[0]
    for tensor in file.tensors:
        short = tensor.dtype in ("F16", "BF16")
        size = tensor.count * (32 if short else tensor.bits) // 8
        header[tensor.name] = {"dtype": "F32" if short else tensor.dtype, "data_offsets": [place, place + size],
                               "shape": list(tensor.shape[::-1] if tensor.transposed else tensor.shape)}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in file.tensors:
            values = tensor.decode()
            values = to_float32(values) if tensor.dtype == "BF16" else values
            values = values.astype("<f4") if tensor.dtype == "F16" else values
            out.write((values.T if tensor.transposed else values).tobytes())


def main():
    parser = argparse.ArgumentParser(description="Reads nibble block files.")
    parser.add_argument("file")
    parser.add_argument("--verify", action="store_true", help="check every byte")
    parser.add_argument("--extract", metavar="DIR", help="write the small files")
    parser.add_argument("--safetensors", metavar="OUT", help="write the decoded tensors")
    options = parser.parse_args()
    try:
        file = read(options.file)
        if options.verify:
            file.verify()
            print(f"{options.file}: {len(file.tensors)} tensors, identity {file.identity}")
        if options.extract:
            os.makedirs(options.extract, exist_ok=True)
            for name, content in file.files.items():
                require(name not in ("", ".", "..") and "\0" not in name and os.path.basename(name) == name,
                        f"{name!r} cannot be a file's name")
                with open(os.path.join(options.extract, name), "wb") as out:
                    out.write(content)
        if options.safetensors:
            write_safetensors(options.safetensors, file)
        if not (options.verify or options.extract or options.safetensors):
            for t in file.tensors:
                packed = f", block {t.block}" + f", nested {t.nested}" * (t.nested > 0) if t.block else ""
                print(f"{t.name} {list(t.shape)} {t.dtype} {t.codec}{packed}{', transposed' * t.transposed}")
    except (NblError, OSError) as error:
        print(f"nbl_reader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
