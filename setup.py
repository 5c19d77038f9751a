"""Builds the native part; everything else is declared in pyproject.toml.

Environment switches:
  FLAME_FAST_DEBUG=1     no optimisation, the runtime's own counters on
  FLAME_FAST_SANITIZE=1  address and undefined-behaviour sanitizers (run with the sanitizers' libraries preloaded)
  FLAME_FAST_WERROR=1    C warnings are errors, as in CI
"""

import os
import platform
import sys
import zlib
from pathlib import Path

import numpy
from setuptools import Extension, setup

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    sys.exit(
        f"flame_fast runs on Linux, x86-64 and arm64; this is {sys.platform} {platform.machine()} "
        "(it needs memfd, futex and pidfd)"
    )


def switched_on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


compile_args = ["-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
link_args = ["-pthread"]
macros: list[tuple[str, str | None]] = []
if switched_on("FLAME_FAST_DEBUG"):
    compile_args += ["-O0", "-g3"]
    macros.append(("FLAME_FAST_DEBUG", "1"))
else:
    compile_args += ["-O3", "-g1"]
if switched_on("FLAME_FAST_SANITIZE"):
    compile_args += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"]
    link_args += ["-fsanitize=address,undefined"]
if switched_on("FLAME_FAST_WERROR"):
    # Cython's own code compares signed with unsigned and leaves helpers unused.
    compile_args += ["-Werror", "-Wno-sign-compare", "-Wno-unused-function"]

#: What says how the words of a segment are laid out and packed. A process of another build must not read them.
LAYOUT = ("layout.pxi", "memory.pxi", "lock.pxi", "slots.pxi", "lanes.pxi")
macros.append(("FF_LAYOUT", hex(zlib.crc32(b"".join(Path("kernels", name).read_bytes() for name in LAYOUT)))))

SOURCES = [str(path) for pattern in ("*.pxi", "*.h", "packing/*") for path in Path("kernels").glob(pattern)]


def extension(name: str, *include_dirs: str) -> Extension:
    return Extension(
        f"flame_fast.kernels.{name}",
        [f"kernels/{name}.pyx"],
        depends=SOURCES,
        include_dirs=["kernels", *include_dirs],
        define_macros=macros,
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )


setup(ext_modules=[extension("runtime", numpy.get_include()), extension("archive", "kernels/packing")])
