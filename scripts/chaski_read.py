#!/usr/bin/env python3
"""A second reader of .chaski files, written from quant/docs/format.md alone.

    chaski_read.py list FILE
    chaski_read.py dequantize FILE TENSOR [--rows A:B]

`dequantize` prints the rows A to B-1 of a tensor, one row a line, each weight with nine digits,
which tell any two f32 apart. Needs nothing but Python. Checksums are compared if the module
`xxhash` is installed, else skipped with a line on stderr: XXH3 in Python would be slow and long.
"""

import argparse
import ctypes
import mmap
import struct
import sys

try:
    import xxhash
except ImportError:
    xxhash = None

DATA_ALIGN, ALIGN = 65536, 64
SECTIONS = {1: "data", 2: "directory", 3: "metadata", 4: "tokenizer", 5: "tokenizer-fast",
            65535: "renewal"}
# name, bytes of a tile block, its block scales for each lane
TYPES = [("f32", 2048, 0), ("f16", 1024, 0), ("bf16", 1024, 0), ("q4", 272, 1), ("q4h", 288, 2),
         ("q5", 336, 1), ("q6", 400, 1), ("q8", 528, 1), ("q3", 208, 1)]
CODEBOOK3 = [-16, -10, -6, -3, 0, 3, 7, 12]
CODEBOOK = [-32, -26, -21, -16, -12, -9, -6, -3, 0, 3, 6, 9, 13, 17, 22, 28]


def expect(what, found, want):
    if found != want:
        raise ValueError(f"{what} is {found}, expected {want}")


def align(n, a):
    return -(-n // a) * a


def checksum(what, stored, *parts):
    if xxhash:
        expect(f"checksum of {what}", stored, xxhash.xxh3_64_intdigest(b"".join(parts)))


class File:
    def __init__(self, path):
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(self.bytes) < 512 or self.bytes[:8] != b"\x89CHASKI\n":
            raise ValueError("not a chaski file")
        if not xxhash:
            print("checksums are not compared: the module xxhash is missing", file=sys.stderr)
        version, n_sections, file_len = struct.unpack_from("<IIQ", self.bytes, 8)
        expect("version", version, 1)
        checksum("the header", struct.unpack_from("<Q", self.bytes, 504)[0], self.bytes[:504])
        expect("section count above 16", n_sections > 16, False)
        self.sections, end = {}, 512
        for i in range(n_sections):
            at = 24 + 28 * i
            kind, flags, offset, length, hash = struct.unpack_from("<HHQQQ", self.bytes, at)
            name = SECTIONS.get(kind, f"kind-{kind}")
            if kind not in SECTIONS and flags != 1:
                raise ValueError(f"section {name} is unknown and not optional")
            expect(f"section {i} being data", kind == 1, i == 0)
            expect(f"another section {name}", name in self.sections, False)
            start = align(end, DATA_ALIGN if kind == 1 else 1 if kind == 65535 else ALIGN)
            expect(f"offset of section {name}", offset, start)
            expect(f"padding before section {name}", self.bytes[end:start].strip(b"\0"), b"")
            if kind not in (1, 65535):
                checksum(f"section {name}", hash, self.bytes[offset:offset + length])
            self.sections[name] = (offset, length, hash)
            end = offset + length
        expect("file length", file_len, end)
        if name != "renewal" or not offset <= len(self.bytes) <= end:
            expect("length of the file", len(self.bytes), end)
        self.read_directory()

    def read_directory(self):
        offset, length, _ = self.sections["directory"]
        count, reserved = struct.unpack_from("<II", self.bytes, offset)
        expect("reserved field of the directory", reserved, 0)
        self.tensors, at, end, first = {}, offset + 8, 0, None
        for i in range(count):
            fields = struct.unpack_from("<QQQIIIBBHHH", self.bytes, at)
            name = self.bytes[at + 44:at + 44 + fields[9]].decode("utf-8")
            tensor = Tensor(self, name, fields[:9])
            at += 44 + fields[9]
            expect(f"another tensor {name}", name in self.tensors, False)
            # Where it must be: behind the one before, or in turns with it.
            turns = 2 if tensor.flags & 2 or first else 1
            start = align(end, DATA_ALIGN if tensor.flags & 1 else ALIGN)
            start = first.offset + first.tile_bytes if first else start
            if first and (tensor.flags or tensor.shape != first.shape):
                raise ValueError(f"{first.name} and {name} cannot be interleaved")
            expect(f"offset of {name}", tensor.offset, start)
            stride = turns * tensor.tile_bytes * tensor.is_matrix
            expect(f"tile stride of {name}", tensor.stride, stride)
            end = start + tensor.span()
            first = tensor if tensor.flags & 2 else None
            self.tensors[name] = tensor
        expect("end of the directory", at, offset + length)
        expect("length of the data", self.sections["data"][1], end)
        hashes = (struct.pack("<Q", t.hash) for t in self.tensors.values())
        checksum("the data", self.sections["data"][2], *hashes)


class Tensor:
    def __init__(self, file, name, fields):
        self.file, self.name, self.flags = file, name, fields[8]
        self.offset, self.stride, self.hash = fields[:3]
        self.start = file.sections["data"][0] + self.offset
        rows, cols, group, self.is_matrix, qtype = self.shape = fields[3:8]
        self.rows, self.cols, self.group = rows, cols, group
        if 0 in (rows, cols, group) or rows % group or qtype >= len(TYPES) or self.is_matrix > 1:
            raise ValueError(f"{name} has an impossible shape or type")
        self.qtype, self.block_bytes, self.n_scales = TYPES[qtype]
        self.head = 64 if self.n_scales else 0
        self.tile_bytes = align(self.head + -(-cols // 32) * self.block_bytes, 64)
        self.n_tiles = rows // group * -(-group // 16)

    def span(self):
        matrix = (self.n_tiles - 1) * self.stride + self.tile_bytes
        return matrix if self.is_matrix else 4 * self.rows

    def check(self):
        n, size = (self.n_tiles, self.tile_bytes) if self.is_matrix else (1, self.span())
        at = (self.start + i * self.stride for i in range(n))
        checksum(self.name, self.hash, *(self.file.bytes[a:a + size] for a in at))

    def row(self, row):
        """The weights of one row (of a vector: its only one)."""
        if not self.is_matrix:
            return list(struct.unpack_from(f"<{self.rows}f", self.file.bytes, self.start))
        group, within = divmod(row, self.group)
        tile, lane = group * -(-self.group // 16) + within // 16, within % 16
        start = self.start + tile * self.stride
        tile = self.file.bytes[start:start + self.tile_bytes]
        out, n, size = [], -(-self.cols // 32), self.block_bytes
        for at in range(self.head, self.head + n * size, size):
            out += self.block_row(tile[at:at + size], lane)
        if self.n_scales:
            scale = struct.unpack_from("<f", tile, 4 * lane)[0]
            # The double product is exact, so there is one rounding: to a C float.
            out = [ctypes.c_float(w * scale).value for w in out]
        return out[:self.cols]

    def block_row(self, block, lane):
        """32 weights of a lane; of the quantised types without the row scale."""
        if self.qtype == "bf16":
            halves = (block[i:i + 2] for i in range(2 * lane, 1024, 32))
            return [struct.unpack("<f", b"\0\0" + half)[0] for half in halves]
        if not self.n_scales:
            return list(struct.unpack("<512f" if self.qtype == "f32" else "<512e", block)[lane::16])
        quants, out = block[16 * self.n_scales:], []
        for k in range(32):
            g, i = k // 4, 4 * lane + k % 4
            scale = block[16 * (k // 16 if self.n_scales == 2 else 0) + lane]
            if self.qtype == "q3":
                if g % 4 < 3:
                    code = quants[64 * (g % 4) + i] >> 3 * (g // 4) & 7
                else:
                    code = (quants[64 * (g // 4) + i] >> 6) + 4 * (quants[128 + i] >> 6 + g // 4 & 1)
                out.append((CODEBOOK3[code] + (scale & 1)) * ((scale >> 1) - 64))
                continue
            code = quants[64 * (g % 4) + i] >> g // 4 * 4 & 15
            if self.qtype in ("q4", "q4h"):
                out.append((CODEBOOK[code] + (scale & 1)) * ((scale >> 1) - 64))
                continue
            if self.qtype == "q5":
                value = code + 16 * (quants[256 + i] >> g & 1) - 16
            elif self.qtype == "q6":
                value = code + 16 * (quants[256 + 64 * (g // 4) + i] >> 2 * (g % 4) & 3) - 32
            else:
                value = (quants[64 * g + i] ^ 128) - 128
            out.append(value * ((scale ^ 128) - 128))
        return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["list", "dequantize"])
    parser.add_argument("file")
    parser.add_argument("tensor", nargs="?")
    parser.add_argument("--rows", default=":", metavar="A:B")
    args = parser.parse_args()
    file = File(args.file)
    if args.command == "list":
        for name, section in file.sections.items():
            print("section", name, *section[:2], sep="\t")
        for t in file.tensors.values():
            shape = f"{t.rows}x{t.cols}" if t.is_matrix else f"{t.rows}"
            fields = t.name, t.qtype, shape, t.group, t.offset, t.stride, f"{t.hash:016x}"
            print("tensor", *fields, sep="\t")
        return
    expect(f"a tensor {args.tensor}", args.tensor in file.tensors, True)
    tensor = file.tensors[args.tensor]
    tensor.check()
    wanted = slice(*(int(n) if n else None for n in args.rows.split(":")))
    for row in range(tensor.rows if tensor.is_matrix else 1)[wanted]:
        print(" ".join(f"{w:.9g}" for w in tensor.row(row)))


try:
    main()
except (OSError, ValueError, struct.error, KeyError) as error:
    sys.exit(f"chaski_read.py: {error}")
