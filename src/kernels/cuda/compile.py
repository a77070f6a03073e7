"""Compiles every `cuda.cu` under src/kernels to the `cuda.ptx` beside it, which the program contains.

    pip install nvidia-cuda-nvrtc-cu12==12.1.105
    python src/kernels/cuda/compile.py

The version of nvrtc is that of the PTX, which drivers from CUDA 12.1 on read; the driver compiles it for the device at hand. The first
line of a `cuda.ptx` is the SHA-256 of its sources: `tests/it/tidy.rs` fails where they changed since.
"""

import ctypes
import hashlib
import pathlib
import sys

import nvidia.cuda_nvrtc

# The oldest devices with products in bf16.
ARCHITECTURE = "compute_80"
KERNELS = pathlib.Path(__file__).parent.parent
SHARED = KERNELS / "cuda" / "kernel.cuh"


def nvrtc():
    folder = pathlib.Path(nvidia.cuda_nvrtc.__path__[0], "lib")
    # nvrtc looks its built-in functions up by name.
    ctypes.CDLL(str(next(folder.glob("libnvrtc-builtins.so*"))), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(next(folder.glob("libnvrtc.so*"))))


def compiled(library, source: pathlib.Path) -> bytes:
    def text(size, read):
        length = ctypes.c_size_t()
        size(program, ctypes.byref(length))
        buffer = ctypes.create_string_buffer(length.value)
        read(program, buffer)
        return buffer.value

    program = ctypes.c_void_p()
    name = str(source.relative_to(KERNELS)).encode()
    library.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), name, 0, None, None)
    options = [f"--gpu-architecture={ARCHITECTURE}", "--std=c++17", f"--include-path={SHARED.parent}"]
    given = (ctypes.c_char_p * len(options))(*[option.encode() for option in options])
    failed = library.nvrtcCompileProgram(program, len(options), given)
    log = text(library.nvrtcGetProgramLogSize, library.nvrtcGetProgramLog).decode().strip()
    if failed or log:
        sys.exit(f"{source}: {log or failed}")
    return text(library.nvrtcGetPTXSize, library.nvrtcGetPTX)


if __name__ == "__main__":
    library = nvrtc()
    for source in sorted(KERNELS.glob("*/cuda.cu")):
        digest = hashlib.sha256(SHARED.read_bytes() + source.read_bytes()).hexdigest()
        target = source.with_suffix(".ptx")
        target.write_bytes(f"// {digest}\n".encode() + compiled(library, source))
        print(target.relative_to(KERNELS), target.stat().st_size)
