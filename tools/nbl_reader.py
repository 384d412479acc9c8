#!/usr/bin/env python3
"""Reads nibble block files (.nbl). Written from formats/nbl/README.md only; section numbers below are that page's.

As a module, read(path) gives an NblFile; as a program it lists, verifies and extracts. Needs numpy, xxhash and zstandard 0.22.
"""
import argparse
import json
import math
import mmap
import os
import re
import struct
import sys

import numpy as np
import zstandard
from xxhash import xxh3_64_intdigest, xxh3_128

FRAME = 262144  # plain bytes in a zstd frame
FRAME_STORED = 263168  # stored bytes of one at most
CODECS = ["plain", "nf4", "fp4", "int8", "int4", "nf4-offsets", "nf4-tiles"]
BYTE_STEP = np.uint32(0x3C010204).view(np.float32)  # 1/127
(DATA, CODES, SCALES, SCALE_CODES, NESTED_SCALES, NESTED_OFFSET, STATE_TEXT, FILE, GROUP_SCALES, ZEROS, OFFSETS, OFFSET_CODES,
 OFFSET_SCALES, TILE_OFFSETS) = range(1, 15)
PLANES = [1, 1, 2, 4]  # by compression

# Section 6: name, bits, NumPy type. BF16 and 8-bit floats come as unsigned integers, 4- and 6-bit ones as their packed bytes.
DTYPES = [("BOOL", 8, "?"), ("F4", 4, None), ("F6_E2M3", 6, None), ("F6_E3M2", 6, None), ("U8", 8, "u1"), ("I8", 8, "i1"),
          ("F8_E5M2", 8, "u1"), ("F8_E4M3", 8, "u1"), ("F8_E8M0", 8, "u1"), ("I16", 16, "<i2"), ("U16", 16, "<u2"),
          ("F16", 16, "<f2"), ("BF16", 16, "<u2"), ("I32", 32, "<i4"), ("U32", 32, "<u4"), ("F32", 32, "<f4"),
          ("C64", 64, "<c8"), ("F64", 64, "<f8"), ("I64", 64, "<i8"), ("U64", 64, "<u8"),
          ("F8_E4M3FNUZ", 8, None), ("F8_E5M2FNUZ", 8, None)]


class NblError(Exception):
    """The file must be refused; the message names what is wrong."""


def require(condition, message):
    if not condition:
        raise NblError(message)


def to_float32(bits):
    """Widens BF16, given as uint16; exact."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values):
    """Rounds float32 to the nearest BF16, ties to even, as uint16; a NaN stays one."""
    bits = values.view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    return np.where(np.isnan(values), (bits >> 16) | 0x40, rounded).astype(np.uint16)


def is_file_name(name):
    """Whether a small file may have this name (section 4)."""
    folder, slash, file = name.partition("/")
    if not slash:
        file = folder
    plain = (0 < len(file.encode()) and len(name.encode()) <= 255 and not file.startswith(".")
             and not any(c in "/\\\x7f" or c < " " for c in file) and file not in ("nibble.json", "model.safetensors.index.json"))
    if not slash:
        return plain and not file.endswith(".safetensors")
    if folder == "additional_chat_templates":
        return plain and file.endswith(".jinja")
    return plain and re.fullmatch("[0-9]+_[A-Za-z0-9_]+", folder) is not None and len(folder) <= 100 and not file.endswith(".bin")


class Cursor:
    """Takes the table apart from front to back."""

    def __init__(self, data):
        self.data, self.place = data, 0

    def take(self, count, what):
        require(count <= len(self.data) - self.place, f"the table ends within {what}")
        self.place += count
        return self.data[self.place - count:self.place]

    def unpack(self, layout, what):
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout), what))

    def text(self, what):
        try:
            return self.take(*self.unpack("I", what), what).decode("utf-8")
        except UnicodeDecodeError:
            raise NblError(f"{what} is not UTF-8") from None


class Section:
    """One run of bytes in the file, with its line of the table."""

    def __init__(self, file, cursor, what):
        self.file, self.what = file, what
        (self.kind, self.compression, zero, self.offset, self.stored, self.plain,
         self.checksum) = cursor.unpack("HB5s4Q", what)
        require(zero == bytes(5), f"{what}: reserved bytes are not zero")
        require(self.compression < len(PLANES), f"{what}: unknown compression {self.compression}")
        require(self.compression or self.plain == self.stored, f"{what}: plain and stored length differ")
        require(self.plain % PLANES[self.compression] == 0, f"{what}: plain length does not split into planes")

    def read(self):
        """The plain bytes, after a look at the checksum (section 5)."""
        stored = self.file.data[self.offset:self.offset + self.stored]
        require(xxh3_64_intdigest(stored) == self.checksum, f"{self.what}: checksum does not hold")
        if self.compression == 0:
            return stored
        frames = -(-self.plain // FRAME)
        end = self.stored - 4 * frames
        require(end >= 0, f"{self.what}: too short for its frame lengths")
        lengths = struct.unpack(f"<{frames}I", stored[end:])
        require(sum(lengths) == end, f"{self.what}: frame lengths do not add up")
        require(all(length <= FRAME_STORED for length in lengths), f"{self.what}: a frame is too long")
        plain, place = [], 0
        for i, length in enumerate(lengths):
            plain.append(self._frame(stored[place:place + length], min(FRAME, self.plain - i * FRAME), f"{self.what}, frame {i}"))
            place += length
        return b"".join(plain)

    def _frame(self, frame, size, what):
        try:
            require(zstandard.frame_content_size(frame) in (-1, size), f"{what}: wrong length")  # -1: not recorded
            data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise NblError(f"{what}: {error}") from None
        require(len(data) == size, f"{what}: wrong length")
        return np.frombuffer(data, np.uint8).reshape(PLANES[self.compression], -1).T.tobytes()


class Tensor:
    """name, dtype, shape (as stored), transposed, codec, digest, sections; block, nested and codebooks of a packed one."""

    def __init__(self, file, cursor, what):
        self.name = cursor.text(what)
        self.what = what = f"tensor {self.name!r}"
        dtype, flags, sections, rank = cursor.unpack("BBHI", what)
        require(dtype < len(DTYPES), f"{what}: unknown dtype {dtype}")
        require(flags <= 1 and (flags == 0 or rank == 2), f"{what}: flags {flags:#x} at rank {rank}")
        require(self.name != "__metadata__", f"{what}: not a name for a tensor")
        require(rank <= 1000, f"{what}: rank {rank} is above 1000")
        self.dtype, self.bits, self.numpy = DTYPES[dtype]
        self.transposed, self.shape = flags == 1, cursor.unpack(f"{rank}Q", what)
        self.count = math.prod(self.shape)
        size = math.prod(dimension for dimension in self.shape if dimension)
        require(max((*self.shape, size * self.bits)) < 2 ** 63, f"{what}: shape {self.shape} is too large")
        codec, length = cursor.unpack("HH", what)
        self.codec = CODECS[codec] if codec < len(CODECS) else None
        parameters, self.digest = cursor.take(length, what), cursor.take(16, what)
        self.sections = [Section(file, cursor, f"section {i} of {what}") for i in range(sections)]
        name = self.name.encode()
        self.head = struct.pack(f"<I{len(name)}sBI{rank}QH", len(name), name, dtype, rank, *self.shape, codec)  # section 8
        self.block = self.nested = 0
        require(codec or not self.transposed, f"{what}: transposed, but not packed")
        if self.codec:
            layouts = {"plain": self._plain, "int8": self._rows, "int4": self._groups,
                       "nf4-offsets": lambda given: self._offsets(file.codebooks, given),
                       "nf4-tiles": lambda given: self._tiles(file.codebooks, given)}
            expected = layouts[self.codec](parameters) if self.codec in layouts else self._packed(file.codebooks, parameters)
            found = [(s.kind, s.plain) for s in self.sections]
            if self.codec in ("nf4", "fp4") and len(found) > len(expected) and found[-1][0] == STATE_TEXT:
                found.pop()
            require(found == expected, f"{what}: sections are (kind, bytes) {found}, must be {expected}")

    def _plain(self, parameters):
        require(parameters == b"", f"{self.what}: a plain tensor with parameters")
        require(self.count * self.bits % 8 == 0, f"{self.what}: not a whole number of bytes")
        return [(DATA, self.count * self.bits // 8)]

    def _rows(self, parameters):
        require(parameters == b"", f"{self.what}: an int8 tensor with parameters")
        require(self.dtype in ("F32", "F16", "BF16"), f"{self.what}: packed from {self.dtype}")
        require(len(self.shape) == 2 and self.count > 0, f"{self.what}: no matrix with elements")
        return [(CODES, self.count), (SCALES, 4 * self.shape[0])]

    def _groups(self, parameters):
        what = self.what
        require(len(parameters) == 8, f"{what}: {len(parameters)} bytes of parameters, must be 8")
        require(self.dtype in ("F32", "F16", "BF16"), f"{what}: packed from {self.dtype}")
        require(len(self.shape) == 2 and self.count > 0 and self.shape[1] % 2 == 0, f"{what}: no matrix with rows of even length")
        size, scales, zeros, zero = struct.unpack("<IBBH", parameters)
        self.group = size or self.shape[1]
        require(size in (0, 32, 64, 128, 256) and self.shape[1] % self.group == 0, f"{what}: group size {size}")
        require(scales < len(DTYPES) and DTYPES[scales][0] in ("F16", "BF16", "F32"), f"{what}: scales of dtype {scales}")
        require(zeros in (254, 255) or zeros < len(DTYPES) and DTYPES[zeros][0] in ("U8", "F16", "F32"),
                f"{what}: zeros of dtype {zeros}")
        require(zero == 0, f"{what}: reserved bytes of the parameters are not zero")
        self.head += parameters[:6]
        self.numbers = [DTYPES[scales]] + ([DTYPES[scales if zeros == 254 else zeros]] if zeros != 255 else [])
        self.has_offsets = zeros == 254
        groups = self.count // self.group
        kinds = (GROUP_SCALES, OFFSETS if self.has_offsets else ZEROS)
        return [(CODES, self.count // 2)] + [(kind, groups * bits // 8) for kind, (_, bits, _) in zip(kinds, self.numbers)]

    def _group_values(self, data, dtype):
        values = np.frombuffer(data, dtype[2])
        return np.repeat(to_float32(values) if dtype[0] == "BF16" else values.astype(np.float32), self.group)

    def _packed(self, codebooks, parameters):
        """Takes the parameters of nf4 and fp4 (section 7); gives kind and plain length of each section."""
        what = self.what
        require(len(parameters) == 16, f"{what}: {len(parameters)} bytes of parameters, must be 16")
        require(self.dtype in ("F32", "F16", "BF16"), f"{what}: packed from {self.dtype}")
        self.block, self.nested, *numbers, declared, zero = struct.unpack("<IIHHB3s", parameters)
        require(self.block in [32 << i for i in range(8)], f"{what}: block size {self.block}")
        require(self.nested <= 1048576, f"{what}: nested block size {self.nested}")
        require(declared < len(DTYPES), f"{what}: codes declared with unknown dtype {declared}")
        require(zero == bytes(3), f"{what}: reserved bytes of the parameters are not zero")
        require(self.nested or numbers.pop() == 65535, f"{what}: a codebook for scales that are not coded")
        for number, count in zip(numbers, (16, 256)):
            require(number < len(codebooks) and len(codebooks[number]) == count,
                    f"{what}: {number} is no codebook with {count} values")
        self.codebooks = [codebooks[number] for number in numbers]
        self.head += parameters[:8] + b"".join(book.tobytes() for book in self.codebooks)
        size = DTYPES[declared][1] // 8
        require(DTYPES[declared][1] % 8 == 0 and -(-self.count // 2) % size == 0, f"{what}: codes that do not fill their dtype")
        codes, blocks = (CODES, -(-self.count // 2)), -(-self.count // self.block)
        if not self.nested:
            return [codes, (SCALES, 4 * blocks)]
        return [codes, (SCALE_CODES, blocks), (NESTED_SCALES, 4 * -(-blocks // self.nested)), (NESTED_OFFSET, 4)]

    def _offsets(self, codebooks, parameters):
        what = self.what
        require(len(parameters) == 24, f"{what}: {len(parameters)} bytes of parameters, must be 24")
        sections = self._packed(codebooks, parameters[:16])
        self.offset_block, number, zero = struct.unpack("<IHH", parameters[16:])
        require(0 < self.offset_block <= 1048576, f"{what}: offset block size {self.offset_block}")
        require(number < len(codebooks) and len(codebooks[number]) == 256, f"{what}: {number} is no codebook with 256 values")
        require(zero == 0, f"{what}: reserved bytes of the parameters are not zero")
        self.offset_book = codebooks[number]
        self.head += parameters[16:20] + self.offset_book.tobytes()
        blocks = -(-self.count // self.block)
        return sections + [(OFFSET_CODES, blocks), (OFFSET_SCALES, 4 * -(-blocks // self.offset_block))]

    def _tiles(self, codebooks, parameters):
        what = self.what
        require(len(parameters) == 24, f"{what}: {len(parameters)} bytes of parameters, must be 24")
        sections = self._packed(codebooks, parameters[:16])
        require(len(self.shape) == 2 and self.count > 0, f"{what}: no matrix with elements")
        self.tile = struct.unpack("<II", parameters[16:])
        require(all(0 < side <= 4096 for side in self.tile) and math.prod(self.tile) == self.block, f"{what}: tiles of {self.tile}")
        require(all(length % side == 0 for length, side in zip(self.shape, self.tile)), f"{what}: shape {self.shape} in tiles of {self.tile}")
        self.head += parameters[16:24]
        return sections + [(TILE_OFFSETS, 4 * (self.count // self.block))]

    def decode(self):
        """The elements as stored, as an array of the tensor's dtype (see DTYPES for those that NumPy lacks)."""
        require(self.codec, f"{self.what}: unknown codec")
        plain = [section.read() for section in self.sections]
        try:
            if self.codec == "plain":
                data = np.frombuffer(plain[0], self.numpy or "u1")
                return data.reshape(self.shape) if self.numpy else data
            with np.errstate(all="ignore"):
                if self.codec == "int8":
                    codes = np.frombuffer(plain[0], np.int8).reshape(self.shape).astype(np.float32)
                    values = codes * np.frombuffer(plain[1], "<f4")[:, None] * BYTE_STEP
                else:
                    pairs = np.frombuffer(plain[0], np.uint8)
                    codes = np.stack([pairs >> 4, pairs & 15], axis=1).reshape(-1)[:self.count]
                if self.codec == "int4":
                    scale, zero, *_ = [self._group_values(*one) for one in zip(plain[1:], self.numbers)] + [np.float32(8)]
                    codes = codes.astype(np.float32)
                    values = (scale * codes + zero if self.has_offsets else scale * (codes - zero)).reshape(self.shape)
                elif self.codec != "int8":
                    absmax = np.repeat(self._absmax(plain), self.block)[:self.count]
                    values = self.codebooks[0][codes] * absmax
                    if self.codec == "nf4-offsets":
                        scales = np.repeat(np.frombuffer(plain[-1], "<f4"), self.offset_block)[:len(plain[-2])]
                        offsets = self.offset_book[np.frombuffer(plain[-2], np.uint8)] * scales
                        values = values + np.repeat(offsets, self.block)[:self.count]
                    if self.codec == "nf4-tiles":
                        (rows, columns), (high, wide) = self.shape, self.tile
                        values = values + np.repeat(np.frombuffer(plain[-1], "<f4"), self.block)
                        values = values.reshape(rows // high, columns // wide, high, wide).transpose(0, 2, 1, 3)
                    values = values.reshape(self.shape)
                return to_bfloat16(values) if self.dtype == "BF16" else values.astype(self.numpy)
        except ValueError as error:  # a rank above 64, or a huge dimension beside one of 0
            raise NblError(f"{self.what}: NumPy: {error}") from None

    def _absmax(self, plain):
        if not self.nested:
            return np.frombuffer(plain[1], "<f4")
        scales = np.repeat(np.frombuffer(plain[2], "<f4"), self.nested)[:len(plain[1])]
        return self.codebooks[1][np.frombuffer(plain[1], np.uint8)] * scales + np.frombuffer(plain[3], "<f4")


class NblFile:
    """An opened file: identity, texts, tensors, and by way of `files` the small files. Opening checks what section 9 asks."""

    def __init__(self, data):
        self.data = data
        require(data[:8] == b"\x89NBL\r\n\x1a\n", "no block file: wrong magic")
        require(len(data) >= 64, "cut within the header")
        version, reserved, needed, _, length, table_length, table_sum, head_sum = struct.unpack("<II6Q", data[8:64])
        require(version == 1, f"unknown version {version}")
        require(xxh3_64_intdigest(data[:56]) == head_sum, "header: checksum does not hold")
        require(reserved == 0, "header: reserved bytes are not zero")
        require(needed == 0, f"header: unknown required features {needed:#x}")
        require(length == len(data), f"header: says {length} bytes, the file has {len(data)}")
        require(table_length <= length - 64, "header: table longer than the file")
        table = Cursor(data[64:64 + table_length])
        require(xxh3_64_intdigest(table.data) == table_sum, "table: checksum does not hold")

        self.identity = table.take(16, "the identity").hex()
        books, texts, files, tensors = table.unpack("4I", "the counts")
        self.codebooks = [self._codebook(table, f"codebook {i}") for i in range(books)]
        pairs = [(table.text(f"key of text {i}"), table.text(f"text {i}")) for i in range(texts)]
        self.texts = dict(pairs)
        require(len(self.texts) == texts, "a text is there twice")
        names = [(table.text(f"small file {i}"), Section(self, table, f"small file {i}")) for i in range(files)]
        self.file_sections = dict(names)
        self.tensors = [Tensor(self, table, f"tensor {i}") for i in range(tensors)]
        require(table.place == table_length, "something follows the last tensor in the table")

        for name, section in names:
            require(is_file_name(name), f"small file {name!r}: not a name to write")
            require(section.kind == FILE, f"small file {name!r}: section of kind {section.kind}")
        for ordered in ([name for name, _ in names], [tensor.name for tensor in self.tensors]):
            for one, next_one in zip(ordered, ordered[1:]):
                require(one.encode() < next_one.encode(), f"name {next_one!r} is out of order or there twice")
        self.gaps, end = [], 64 + table_length  # section 2
        for section in [*self.file_sections.values(), *(s for tensor in self.tensors for s in tensor.sections)]:
            start = -(-end // 64) * 64
            require(section.offset == start, f"{section.what}: at byte {section.offset}, must be at {start}")
            self.gaps.append((end, start))
            end = start + section.stored
        require(end == length, f"the last section ends at byte {end}, the file at {length}")

    @staticmethod
    def _codebook(table, what):
        count, = table.unpack("I", what)
        require(count in (16, 256), f"{what}: {count} values")
        values = np.frombuffer(table.take(4 * count, what), "<f4")
        require(np.isfinite(values).all(), f"{what}: not finite")
        return values

    @property
    def files(self):
        """The small files: name to bytes."""
        return {name: section.read() for name, section in self.file_sections.items()}

    def verify(self):
        """Reads every byte and checks all the rest the specification says; raises NblError at the first that does not hold."""
        for first, end in self.gaps:
            require(not any(self.data[first:end]), f"padding before byte {end} is not zero")
        for section in self.file_sections.values():
            section.read()
        identity = xxh3_128()
        for tensor in self.tensors:
            require(tensor.codec, f"{tensor.what}: unknown codec")
            content = xxh3_128()
            for section in tensor.sections:
                plain = section.read()
                if section.kind == STATE_TEXT:
                    self._json(plain, section.what)
                else:
                    content.update(plain)
            require(content.digest() == tensor.digest, f"{tensor.what}: digest does not hold")
            identity.update(tensor.head + tensor.digest)
        require(identity.hexdigest() == self.identity, "identity does not hold")
        metadata, provenance, origin = (
            self._json(self.texts.get(key, "{}"), key) for key in ("metadata", "provenance", "origin"))
        require(all(isinstance(value, str) for value in metadata.values()), "metadata: not only texts")
        require(re.fullmatch("[0-9a-fA-F]{32}", str(provenance.get("source", "0" * 32))), "provenance: source is no identity")
        if "origin" in self.texts:
            require(isinstance(origin.get("name"), str) and isinstance(origin.get("revision", ""), str), "origin: no name of a model")

    @staticmethod
    def _json(text, what):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            raise NblError(f"{what}: not JSON") from None
        require(isinstance(value, dict), f"{what}: not a JSON object")
        return value


def read(path):
    with open(path, "rb") as file:
        empty = os.fstat(file.fileno()).st_size == 0
        return NblFile(b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def write_safetensors(path, file):
    """Every tensor decoded, the model's own way round; F16 and BF16 widened to F32, other dtypes as they are."""
    header, place = {}, 0
    if "metadata" in file.texts:
        header["__metadata__"] = json.loads(file.texts["metadata"])
    for tensor in file.tensors:
        dtype, bits = ("F32", 32) if tensor.dtype in ("F16", "BF16") else (tensor.dtype, tensor.bits)
        end = place + tensor.count * bits // 8
        shape = tensor.shape[::-1] if tensor.transposed else tensor.shape
        header[tensor.name], place = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}, end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for tensor in file.tensors:
            values = tensor.decode()
            values = {"BF16": to_float32, "F16": np.float32}.get(tensor.dtype, np.asarray)(values)
            out.write((values.T if tensor.transposed else values).tobytes())


def main():
    parser = argparse.ArgumentParser(description="Reads nibble block files; lists the tensors unless an option says otherwise.")
    parser.add_argument("file", metavar="FILE")
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
                os.makedirs(os.path.dirname(os.path.join(options.extract, name)), exist_ok=True)
                with open(os.path.join(options.extract, name), "wb") as out:
                    out.write(content)
        if options.safetensors:
            write_safetensors(options.safetensors, file)
        if not (options.verify or options.extract or options.safetensors):
            for t in file.tensors:
                packed = f", block {t.block}, nested block {t.nested}" if t.block else ""
                print(f"{t.name} {list(t.shape)} {t.dtype} {t.codec or 'unknown codec'}{packed}{', transposed' * t.transposed}")
    except (NblError, OSError) as error:
        print(f"nbl_reader: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
