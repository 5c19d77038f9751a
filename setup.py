"""Build the native part; everything else is declared in pyproject.toml. CONTRIBUTING.md says how to build it again.

Environment switches; a build with others than the last one compiles everything anew:
  FLAME_FAST_DEBUG=1     no optimisation, the runtime's own counters on
  FLAME_FAST_SANITIZE=1  address and undefined-behaviour sanitizers (run with the sanitizers' libraries preloaded);
                         `thread`: the thread sanitizer
  FLAME_FAST_WERROR=1    C warnings are errors, as in CI
"""

import os
import platform
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import Cython
import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.modified import newer_group

if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
    sys.exit(
        f"flame_fast runs on Linux, x86-64 and arm64; this is {sys.platform} {platform.machine()} "
        "(it needs memfd, futex and pidfd)"
    )


def switched_on(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


compile_args = ["-std=gnu11", "-pthread", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-missing-field-initializers"]
# Cython's own code compares signed with unsigned and leaves helpers unused.
compile_args += ["-Wno-sign-compare", "-Wno-unused-function"]
link_args = ["-pthread"]
macros: list[tuple[str, str | None]] = []
if switched_on("FLAME_FAST_DEBUG"):
    compile_args += ["-O0", "-g3"]
    macros.append(("FLAME_FAST_DEBUG", "1"))
else:
    compile_args += ["-O3", "-g1"]
if switched_on("FLAME_FAST_SANITIZE"):
    sanitizers = "thread" if os.environ["FLAME_FAST_SANITIZE"] == "thread" else "address,undefined"
    # Undefined behaviour ends the process: what it only printed, pytest would swallow.
    compile_args += [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
    link_args += [f"-fsanitize={sanitizers}"]
if switched_on("FLAME_FAST_WERROR"):
    compile_args.append("-Werror")

#: What says how the words of a segment are laid out and packed. A process of another build must not read them.
LAYOUT = ("layout", "regions", "lookup", "run_queue", "wakeup")
CORE = Path("kernels", "runtime", "core")
macros.append(("FF_LAYOUT", hex(zlib.crc32(b"".join((CORE / f"{name}.pxd").read_bytes() for name in LAYOUT)))))

#: For all native files, those that others cimport too: a comment at the top of a .pyx holds for that file alone.
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": False,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
}


#: Every function of the core is declared inline, since a `.pxd` file holds no others. gcc decides by size which are: told to
#: inline them all, it makes the runtime a tenth larger and submitting a call no faster.
LEFT_TO_GCC: list[tuple[str, str | None]] = [("CYTHON_INLINE", "__attribute__((unused))")]


#: Of what the C code is made by and for.
VERSIONS = (Cython.__version__, numpy.__version__)


#: A file that is newer than any build of another kind: it holds the arguments and versions of the compilers.
SWITCHES = Path("build", "switches")


def record_switches() -> None:
    said = repr((compile_args, link_args, [name for name, _ in macros], LEFT_TO_GCC, DIRECTIVES, VERSIONS))
    if not SWITCHES.exists() or SWITCHES.read_text() != said:
        SWITCHES.parent.mkdir(exist_ok=True)
        SWITCHES.write_text(said)


def package_for_cython() -> str:
    """Return a directory with `flame_fast/kernels` in it, where Cython looks modules up by their names."""
    package = Path("build", "cython", "flame_fast")
    package.mkdir(parents=True, exist_ok=True)
    initial = package / "__init__.pxd"
    if not initial.exists():  # Cython takes what it finds newer for changed
        initial.touch()
    kernels = package / "kernels"
    if not kernels.is_symlink():
        kernels.symlink_to(Path("..", "..", "..", "kernels"))
    return str(package.parent)


def extension(folder: str, *include_dirs: str, further: Sequence[tuple[str, str | None]] = ()) -> Extension:
    """Return the extension of a folder of `kernels/`: `_native.pyx`, and what that includes and cimports."""
    sources = Path("kernels", folder)
    others = sorted(str(path) for kind in ("pxi", "pxd", "h") for path in sources.rglob(f"*.{kind}"))
    made = Extension(
        f"flame_fast.kernels.{folder}._native",
        [str(sources / "_native.pyx")],
        depends=[*others, str(SWITCHES)],
        include_dirs=list(include_dirs),
        define_macros=[*macros, *further],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
    )
    made.cython_include_dirs = [package_for_cython()]
    made.cython_directives = DIRECTIVES
    return made


class BuildChanged(build_ext):
    """Takes what the last editable install has built, if nothing has changed: pip has each begin in an empty folder."""

    def run(self) -> None:
        record_switches()
        super().run()

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.get_ext_fullpath(ext.name))
        built = Path(ext.sources[0]).with_name(target.name)
        if self.editable_mode and not newer_group([*ext.sources, *ext.depends], str(built)):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(built, target)
        else:
            super().build_extension(ext)


setup(
    cmdclass={"build_ext": BuildChanged},
    ext_modules=[
        extension("runtime", "kernels/runtime/core", numpy.get_include(), further=LEFT_TO_GCC),
        extension("archive", "kernels/archive"),
        extension("bitgen", "kernels/bitgen", numpy.get_include()),
    ],
    options={"build_ext": {"parallel": True}},  # both at once
)
