"""NVIDIA's own compiler without a GPU: compiles CUDA C++ to machine code, and reads what its assembler says of it."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

# what CuPy adds to a module's own options (cupy 14.2, cupy/cuda/compiler.py)
CUPYS = ("-ftz=true", "--device-as-default-execution-space")
REPORT = ("--ptxas-options=-v", "--ptxas-options=--warn-on-spills", "--ptxas-options=--warn-on-local-memory-usage")


@dataclass
class Compiled:
    """One kernel of one architecture."""

    name: str
    registers: int
    stack: int  # bytes of local memory
    spilled: int  # bytes


def library() -> ctypes.CDLL | None:
    """The compiler of the package nvidia-cuda-nvrtc-cu12; None where it is not installed."""
    found = importlib.util.find_spec("nvidia")
    for folder in found.submodule_search_locations if found else ():
        for file in sorted(Path(folder).glob("cuda_nvrtc/lib/libnvrtc.so.*")):
            return ctypes.CDLL(str(file))
    return None


def compile_kernels(nvrtc: ctypes.CDLL, text: str, options: tuple[str, ...], names: list[str], architecture: int):
    """Compile instances of a text; returns a list of `Compiled` and the compiler's warnings."""
    program = ctypes.c_void_p()

    def check(code):
        if code:
            nvrtc.nvrtcGetErrorString.restype = ctypes.c_char_p
            raise RuntimeError(f"sm_{architecture}: {nvrtc.nvrtcGetErrorString(code).decode()}\n{log()}")

    def log():
        size = ctypes.c_size_t()
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, buffer)
        return buffer.value.decode()

    check(nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None))
    for name in names:
        check(nvrtc.nvrtcAddNameExpression(program, name.encode()))
    wanted = [option.encode() for option in (*options, f"-arch=sm_{architecture}", *CUPYS, *REPORT)]
    check(nvrtc.nvrtcCompileProgram(program, len(wanted), (ctypes.c_char_p * len(wanted))(*wanted)))
    lowered = {}
    for name in names:
        mangled = ctypes.c_char_p()
        check(nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(mangled)))
        lowered[mangled.value.decode()] = name
    found = read_report(log(), lowered)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return found


def read_report(text: str, names: dict[str, str]) -> tuple[list[Compiled], list[str]]:
    """What ptxas says of each kernel, by its name before mangling; and warnings."""
    compiled, warnings, name, stack, spilled = [], [], "", 0, 0
    for line in text.splitlines():
        if entry := re.search(r"entry function '(\S+)'", line):
            name, stack, spilled = names.get(entry[1], entry[1]), 0, 0
        elif frame := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            stack, spilled = int(frame[1]), int(frame[2])
        elif used := re.search(r"Used (\d+) registers", line):
            compiled.append(Compiled(name, int(used[1]), stack, spilled))
        elif "warning" in line.lower():
            warnings.append(line)
    return compiled, warnings
