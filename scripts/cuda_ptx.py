#!/usr/bin/env python3
"""Compiles the CUDA kernels to PTX, which the repository holds and the program carries.

  scripts/cuda_ptx.py            write src/backend/cuda/kernels/ptx/NAME.ptx for each NAME.cu
  scripts/cuda_ptx.py --check    write nothing; exit status 1 where a file is not what would be written
  scripts/cuda_ptx.py --ptxas    besides, assemble each for sm_80, sm_90 and sm_100 and print what it takes

Neither a GPU nor a CUDA toolkit is needed. NVRTC comes from PyPI, and so does ptxas, in any environment whose Python runs this:

  pip install nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvcc-cu12==12.9.86

The first line of a file says what it was made of: NVRTC's version, the options, the SHA-256 of the sources and of the text that
follows. Same sources, options and version, same bytes. A test recomputes the line (tests/it/cuda/ptx.rs).
"""

import argparse
import ctypes
import glob
import hashlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile

KERNELS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "src", "backend", "cuda", "kernels")
# The least GPU that chaski takes. No contraction: `a * b + c` is two operations, as the definition has it.
OPTIONS = ["--gpu-architecture=compute_80", "--std=c++17", "--fmad=false"]
# The PTX version of CUDA 12.0, the least driver that chaski takes. NVRTC writes its own, though no instruction needs it: ptxas
# refuses one that is not of the version that a file says.
PTX_VERSION = "8.0"
ARCHITECTURES = ["sm_80", "sm_90", "sm_100"]


def library(name: str, pattern: str) -> str:
    found = sorted(glob.glob(os.path.join(sysconfig.get_path("purelib"), "nvidia", pattern)))
    if not found:
        sys.exit(f"{name} was not found: pip install nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvcc-cu12==12.9.86")
    return found[0]


class Nvrtc:
    """The compiler's library."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(library("NVRTC", "cuda_nvrtc/lib/libnvrtc.so.*"))

    def text(self, program: ctypes.c_void_p, what: str) -> str:
        size = ctypes.c_size_t()
        getattr(self.lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
        text = ctypes.create_string_buffer(size.value)
        getattr(self.lib, f"nvrtcGet{what}")(program, text)
        return text.value.decode()

    def compile(self, name: str, source: bytes, headers: dict[str, bytes]) -> str:
        """PTX of `source`. Headers are handed over by name: no path of this machine can come into the result."""
        program = ctypes.c_void_p()
        n = len(headers)
        texts = (ctypes.c_char_p * n)(*headers.values())
        names = (ctypes.c_char_p * n)(*[h.encode() for h in headers])
        options = (ctypes.c_char_p * len(OPTIONS))(*[o.encode() for o in OPTIONS])
        self.lib.nvrtcCreateProgram(ctypes.byref(program), source, name.encode(), n, texts, names)
        failed = self.lib.nvrtcCompileProgram(program, len(OPTIONS), options)
        log = self.text(program, "ProgramLog").strip()
        if log:
            print(log, file=sys.stderr)
        if failed:
            sys.exit(f"{name}: NVRTC refuses it")
        return self.text(program, "PTX")


def read(name: str) -> bytes:
    with open(os.path.join(KERNELS, name), "rb") as file:
        return file.read()


def sources_hash(name: str, headers: dict[str, bytes]) -> str:
    """Of each file's name, a line feed, its length as a line, and its bytes: headers in the order of their names, then `name`."""
    total = hashlib.sha256()
    for file, text in [*headers.items(), (name, read(name))]:
        total.update(f"{file}\n{len(text)}\n".encode())
        total.update(text)
    return total.hexdigest()


def made(nvrtc: Nvrtc, name: str, headers: dict[str, bytes]) -> str:
    ptx = nvrtc.compile(name, read(name), headers)
    version = re.search(r"V(\d+\.\d+\.\d+)", ptx)
    if not version:
        sys.exit("NVRTC does not say its version")
    # Without comments, empty lines and hints that PTX_VERSION does not have; what is left are directives and instructions.
    lines = [line.rstrip() for line in ptx.splitlines()]
    lines = [line for line in lines if line and not line.lstrip().startswith(("//", '.pragma "used_bytes_mask'))]
    text = "\n".join(lines) + "\n"
    text, n = re.subn(r"^\.version .*$", f".version {PTX_VERSION}", text, count=1, flags=re.M)
    assert n == 1, "no .version"
    first = (
        f"// {name} by NVRTC {version[1]} {' '.join(OPTIONS)}, sources {sources_hash(name, headers)}, "
        f"text {hashlib.sha256(text.encode()).hexdigest()}\n"
    )
    return first + text


def assemble(path: str) -> None:
    """Prints registers, shared memory and spills of each entry."""
    ptxas = library("ptxas", "cuda_nvcc/bin/ptxas")
    for architecture in ARCHITECTURES:
        with tempfile.NamedTemporaryFile() as cubin:
            command = [ptxas, f"-arch={architecture}", "-v", path, "-o", cubin.name]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        for entry in re.split(r"Compiling entry function ", said)[1:]:
            name = entry.split("'")[1]
            registers = re.search(r"Used (\d+) registers", entry)
            shared = re.search(r"(\d+) bytes smem", entry)
            spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", entry))
            frame = re.search(r"(\d+) bytes stack frame", entry)
            print(
                f"{architecture:7} {name:28} {registers[1] if registers else '?':>3} registers, "
                f"{shared[1] if shared else 0:>5} bytes of shared memory, stack {frame[1] if frame else '?'}, spilled {spills}"
            )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--ptxas", action="store_true")
    args = parser.parse_args()
    nvrtc = Nvrtc()
    names = sorted(os.listdir(KERNELS))
    headers = {name: read(name) for name in names if name.endswith(".h")}
    out = os.path.join(KERNELS, "ptx")
    os.makedirs(out, exist_ok=True)
    wanted, status = set(), 0
    for name in names:
        if not name.endswith(".cu"):
            continue
        text = made(nvrtc, name, headers)
        path = os.path.join(out, name.removesuffix(".cu") + ".ptx")
        wanted.add(os.path.basename(path))
        old = open(path).read() if os.path.exists(path) else ""
        if old != text:
            status = 1
            print(f"{os.path.relpath(path)}: {'differs' if args.check else 'written'}")
            if not args.check:
                with open(path, "w", newline="\n") as file:
                    file.write(text)
        if args.ptxas:
            assemble(path)
    for other in sorted(set(os.listdir(out)) - wanted):
        status = 1
        print(f"{other}: of no source{'' if args.check else ', removed'}")
        if not args.check:
            os.remove(os.path.join(out, other))
    return status if args.check else 0


if __name__ == "__main__":
    sys.exit(main())
