"""Contenders of packing and unpacking, and their trees: flame_fast, Python's tarfile, GNU tar with several compressors.

Every contender packs the same files into one file, and does all that its user would wait for. Benchmarks measure `run`
alone; `prepare` makes the next run possible (an empty data directory, a changed file).

Some functions here run in processes whose memory is measured. So the others import what only they need.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median_low

from measuring import timed

STANDARD_LIBRARY = "standard library"
SMALL_FILES = "20,000 small files"
LARGE_FILE = "one 1 GB file"

#: All that the peers pack is to be in our package, too.
EXCLUDES = ["!venv", "!*.pem"]
LIMIT = 2 << 30

#: So many seconds after its last change, no file of a tree is racy any more.
SETTLED_S = 2.1


# ---- trees ---------------------------------------------------------------------------------------------------------------


class Tree:
    """A directory to pack, made just now.

    Attributes
    ----------
    path : Path
    files, entries : int
        Without and with its directories.
    size : int
        Bytes of its files.
    middle : Path
        The file of median size.
    """

    def __init__(self, path):
        self.path = path
        self.made = time.monotonic()
        found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
        self.files = len(found)
        self.entries = self.files + sum(len(folders) for _, folders, _ in os.walk(path))
        sized = [(file.lstat().st_size, file) for file in found]
        self.size = sum(size for size, _ in sized)
        self.middle = median_low(sized)[1]

    def settle(self):
        """Wait until no file of the tree is racy any more."""
        time.sleep(max(0, self.made + SETTLED_S - time.monotonic()))


class Trees:
    """The trees beneath a folder, each made when it is first asked for.

    Parameters
    ----------
    folder, targets : Path
        Where they, and all packages, go; and what is unpacked.
    """

    def __init__(self, folder, targets):
        self._folder = folder
        self._targets = targets
        self._made = {}

    def __getitem__(self, name):
        return self._one(name, name, MAKERS[name])

    def to_change(self, name):
        """Return a copy of a tree that may be changed."""
        return self._one(f"{name}, to be changed", name, lambda path: shutil.copytree(self[name].path, path, symlinks=True))

    def new_folder(self):
        """Return an empty folder beside the trees."""
        return _numbered(self._folder)

    def new_target(self):
        """Return an empty folder to unpack into."""
        return _numbered(self._targets)

    def _one(self, key, name, make):
        if key not in self._made:
            path = self.new_folder() / name.replace(" ", "-")
            make(path)
            self._made[key] = Tree(path)
        return self._made[key]


def _numbered(folder):
    path = folder / f"work{len(os.listdir(folder))}"
    path.mkdir()
    return path


def make_standard_library(path):
    import sysconfig

    left_out = shutil.ignore_patterns("__pycache__", "site-packages", "config-*")
    shutil.copytree(sysconfig.get_path("stdlib"), path, symlinks=True, ignore=left_out)


def make_small_files(path):
    """Make files of 200 bytes to 4 KB, small ones more often than large."""
    random, text = _pseudo_text()
    for number in range(200):
        folder = path / f"part{number // 20}" / f"folder{number}"
        folder.mkdir(parents=True)
        for i in range(100):
            size = int(200 * 20 ** random.random())
            at = random.randrange(len(text) - size)
            (folder / f"file{i}.txt").write_bytes(text[at : at + size])


def make_large_file(path):
    """Make a file of text and random bytes in turns; no two pieces are equal."""
    random, text = _pseudo_text()
    path.mkdir()
    half = 4_000_000
    with open(path / "data.bin", "wb") as file:
        for turn in range(125):
            file.write(text[turn * 1009 :][:half])
            file.write(random.randbytes(half))


def _pseudo_text():
    """Return a generator of random numbers, and some megabytes of text, its words as frequent as in a language."""
    from random import Random

    random = Random(5)
    words = ["".join(random.choices("etaoinshrdlu_cmf", k=random.randint(2, 10))) for _ in range(4000)]
    frequencies = [1 / rank for rank in range(1, len(words) + 1)]
    chosen = random.choices(words, frequencies, k=900_000)
    return random, "\n".join(" ".join(chosen[i : i + 11]) for i in range(0, len(chosen), 11)).encode()


MAKERS = {
    STANDARD_LIBRARY: make_standard_library,
    SMALL_FILES: make_small_files,
    LARGE_FILE: make_large_file,
}


def native_walk(folder):
    """Return a function that counts the entries of a tree in C, built into a folder; None without a compiler."""
    library = Path(folder, "walk.so")
    command = ["cc", "-O3", "-shared", "-fPIC", "-o", str(library), str(Path(__file__).parents[1] / "reference" / "walk.c")]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    walk = ctypes.CDLL(str(library)).walk
    walk.restype = ctypes.c_long
    walk.argtypes = [ctypes.c_char_p]
    return lambda path: walk(os.fsencode(path))


# ---- packing -------------------------------------------------------------------------------------------------------------


def pack(tree, out, home):
    """Pack as a Runner does."""
    from flame_fast.package import pack

    return pack(tree, out, excludes=EXCLUDES, limit=LIMIT, home=str(home))


class Contender:
    """Packs a tree into `out`.

    Attributes
    ----------
    needs : tuple of str
        Commands without which it cannot.
    """

    name: str
    needs: tuple[str, ...] = ()
    changes = False

    def __init__(self, trees, tree):
        self.tree = trees.to_change(tree) if self.changes else trees[tree]
        self.folder = trees.new_folder()
        self.out = self.folder / "package.tar.gz"
        self.home = self.folder / "home"

    def prepare(self):
        self.out.unlink(missing_ok=True)

    def run(self):
        raise NotImplementedError

    def seconds(self):
        self.prepare()
        return timed(self.run)


class Cold(Contender):
    """flame_fast packs a tree for the first time."""

    name = "flame_fast, cold"

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.home, ignore_errors=True)
        self.home.mkdir()

    def run(self):
        self.info = pack(self.tree.path, self.out, self.home)


class Unchanged(Contender):
    """flame_fast packs a tree again that has not changed."""

    name = "flame_fast, unchanged"

    def __init__(self, trees, tree):
        super().__init__(trees, tree)
        self.home.mkdir()
        self.tree.settle()
        pack(self.tree.path, self.out, self.home)
        self._index = self.index()

    def index(self):
        """Return the inode of the stored index."""
        (path,) = self.home.glob("packed/*.index")
        return path.stat().st_ino

    def run(self):
        self.info = pack(self.tree.path, self.out, self.home)

    def seconds(self):
        seconds = super().seconds()
        assert self.index() == self._index, "the tree has changed"
        return seconds


class Changed(Contender):
    """flame_fast packs a tree again after one file has changed, each time from the package before the first change."""

    name = "flame_fast, one file changed"
    changes = True

    def __init__(self, trees, tree):
        super().__init__(trees, tree)
        self.tree.settle()
        self.file = self.tree.middle
        self.first_home = self.folder / "first home"
        self.first_home.mkdir()
        self.first_info = pack(self.tree.path, self.out, self.first_home)
        with open(self.file, "ab") as file:  # so that it has one size in all of the measured packings
            file.write(b"\n")

    def prepare(self):
        super().prepare()
        shutil.rmtree(self.home, ignore_errors=True)
        shutil.copytree(self.first_home, self.home, copy_function=os.link)  # an index names its package by inode
        data = bytearray(self.file.read_bytes()[-1:])
        with open(self.file, "r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(bytes([data[0] ^ 1]))

    def run(self):
        self.info = pack(self.tree.path, self.out, self.home)

    def its_block(self):
        """Return a function that reads, hashes and compresses the block of the changed file, as `run` does."""
        from flame_fast.kernels import archive

        from flame_fast.package import block_format
        from flame_fast.package.snapshot import Snapshot

        snapshot = Snapshot(str(self.tree.path), EXCLUDES, None, [], self.tree.files)
        members = snapshot.members
        number = members.find(os.fsencode(self.file.relative_to(self.tree.path)))
        planned = next(block for block in archive.plan_blocks(members) if block[0] <= number < block[0] + block[1])
        hasher, compressor = block_format.hasher(self.tree.size), block_format.Compressor(self.tree.size)

        def run():
            reader = archive.BlockReader(snapshot.descriptor, members)
            reader.read(*planned)
            block_format.compress(block_format.WHOLE, reader, len(reader), hasher(reader).digest(), compressor)

        return run


class Command(Cold):
    """The command line as a whole, which also says what is in the package."""

    name = "python -m flame_fast package -o"

    def __init__(self, trees, tree):
        super().__init__(trees, tree)
        settings = self.folder / "flame.yaml"
        rules = ", ".join(f'"{rule}"' for rule in EXCLUDES)
        package = f"{{excludes: [{rules}], limit: {LIMIT}}}"
        settings.write_text(f"current-context: bench\ncontexts:\n  - {{name: bench, package: {package}}}\n")
        self.tree.settle()  # it packs twice, once to say how large the package is
        self._environment = environment() | {"FLAME_CONF": str(settings), "FLAME_FAST_HOME": str(self.home)}

    def run(self):
        command = [sys.executable, "-m", "flame_fast", "package", "-o", self.out, self.tree.path]
        subprocess.run(command, check=True, capture_output=True, env=self._environment)


class Tarfile(Contender):
    """As Flame packs, but for its rules."""

    level: int

    def run(self):
        import tarfile

        with tarfile.open(self.out, "w:gz", compresslevel=self.level) as tar:
            tar.add(self.tree.path, arcname="")


class TarfileLevel9(Tarfile):
    name, level = "tarfile, level 9", 9


class TarfileLevel1(Tarfile):
    name, level = "tarfile, level 1", 1


class TarGzip(Contender):
    name, needs = "tar -cz", ("tar", "gzip")

    def run(self):
        subprocess.run(["tar", "-C", self.tree.path, "-czf", self.out, "."], check=True)


class TarPipe(Contender):
    """GNU tar into a compressor."""

    compressor: tuple[str, ...]

    def run(self):
        with (
            open(self.out, "wb") as out,
            subprocess.Popen(["tar", "-C", self.tree.path, "-cf", "-", "."], stdout=subprocess.PIPE) as tar,
            subprocess.Popen(self.compressor, stdin=tar.stdout, stdout=out) as compressor,
        ):
            tar.stdout.close()
        assert (tar.returncode, compressor.returncode) == (0, 0)


class TarPigz(TarPipe):
    name, needs, compressor = "tar | pigz", ("tar", "pigz"), ("pigz",)


class TarIgzip(TarPipe):
    name, needs, compressor = "tar | igzip -1 -T 2", ("tar", "igzip"), ("igzip", "-1", "-T", "2", "-c")


OURS = (Cold, Unchanged, Changed, Command)
PEERS = (TarIgzip, TarPigz, TarGzip, TarfileLevel1, TarfileLevel9)
CONTENDERS = {contender.name: contender for contender in (*OURS, *PEERS)}


def missing(contender):
    """Return the commands that a contender needs and that are not installed."""
    return [command for command in contender.needs if shutil.which(command) is None]


def environment():
    """Return an environment in which Python keeps byte code, as it does for users."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


# ---- unpacking -----------------------------------------------------------------------------------------------------------


class Unpacking(Contender):
    """Unpacks a package of flame_fast into an empty directory."""

    def __init__(self, trees, tree):
        super().__init__(trees, tree)
        self.home.mkdir()
        self.info = pack(self.tree.path, self.out, self.home)
        self.target = trees.new_target() / "target"

    def prepare(self):
        shutil.rmtree(self.target, ignore_errors=True)
        self.target.mkdir()

    def unpacked(self):
        """Return the unpacked tree."""
        return self.target


class OursFresh(Unpacking):
    name = "flame_fast"

    def run(self):
        self._tree = ensure_unpacked(self.info, self.target)

    def unpacked(self):
        return self._tree


class OursAfterPrevious(OursFresh):
    """flame_fast unpacks beside the tree of the version before one file changed."""

    name = "flame_fast, the previous version there"
    changes = True

    def __init__(self, trees, tree):
        super().__init__(trees, tree)
        self._previous = self.info
        with open(self.tree.middle, "ab") as file:
            file.write(b"\n")
        self.info = pack(self.tree.path, self.folder / "changed.tar.gz", self.home)

    def prepare(self):
        super().prepare()
        ensure_unpacked(self._previous, self.target)


class GnuTar(Unpacking):
    name, needs = "tar xzf", ("tar", "gzip")

    def run(self):
        subprocess.run(["tar", "-C", self.target, "-xzf", self.out], check=True)


class PythonTarfile(Unpacking):
    name = "tarfile"

    def run(self):
        import tarfile

        with tarfile.open(self.out) as tar:
            tar.extractall(self.target, filter="data")


UNPACKERS = {unpacker.name: unpacker for unpacker in (OursFresh, OursAfterPrevious, GnuTar, PythonTarfile)}


def ensure_unpacked(info, home):
    """Unpack as a worker does, but keep no lock on the tree."""
    from flame_fast.package import unpacking

    tree = unpacking.ensure_unpacked(info.path, info.digest, home)
    os.close(unpacking._held.pop(tree))
    return tree


# ---- memory: in processes of their own -----------------------------------------------------------------------------------


def peak_of_packing(tree, out, home):
    """Return the process's peak memory in bytes before and after."""
    before = peak_bytes()
    pack(tree, out, home)
    return before, peak_bytes()


def peak_of_unpacking(archive, digest, home):
    """Return the process's peak memory in bytes before and after."""
    from flame_fast.package.unpacking import ensure_unpacked

    before = peak_bytes()
    ensure_unpacked(archive, digest, home)
    return before, peak_bytes()


def peak_bytes():
    """Return the peak memory of this process so far, its libraries included."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
