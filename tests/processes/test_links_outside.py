"""Links of a project that lead out of it: in no package, but workers follow them."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import textwrap
import warnings
from pathlib import Path

import pytest
from gates import PATIENCE_S, run_script

from flame_fast import Runner
from flame_fast.package import pack

NOTICE = "left out of the package for they are links that point out of the directory"


def files(directory: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(textwrap.dedent(text))


def link(project: Path, links: dict[str, Path]) -> None:
    for name, target in links.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).symlink_to(target)


def printed(project: Path, body: str) -> str:
    return run_script(
        project,
        f"""
        import warnings
        warnings.simplefilter("ignore")
        from flame_fast import Runner
        {body}
        """,
    )


@pytest.fixture
def shared(tmp_path):
    """Return a library beside the project."""
    directory = tmp_path / "shared"
    files(
        directory,
        {
            "lib/__init__.py": "from lib.part import VALUE\n",
            "lib/part.py": "VALUE = 'part'\nclass Thing: pass\n",
            "space/inside.py": "VALUE = 'space'\n",
            "single.py": "VALUE = 'single'\nclass Thing: pass\n",
            "data/x.csv": "data",
        },
    )
    return directory


CALL = """
        def values():
            {imports}
            return {value}
        with Runner("links", workers=1) as rr:
            there, here = rr.service(values)().get(), values()
            print(there == here, there)
"""


@pytest.mark.parametrize(
    ("links", "imports", "value", "expected"),
    [
        ({"lib": "lib"}, "import lib", "lib.VALUE, lib.__file__", "part"),
        ({"lib": "lib"}, "import lib.part", "lib.part.Thing, lib.part.VALUE", "part"),
        ({"renamed": "space"}, "import renamed.inside", "renamed.inside.VALUE, list(renamed.__path__)", "space"),
        ({"single.py": "single.py"}, "import single", "single.VALUE, single.__file__", "single"),
        ({"other.py": "single.py"}, "import other", "other.VALUE, other.Thing", "single"),
        ({"pkg/single.py": "single.py"}, "import pkg.single", "pkg.single.VALUE, pkg.single.__file__", "single"),
        ({"pkg/deep/lib": "lib"}, "import pkg.deep.lib.part as part", "part.__name__", "pkg.deep.lib.part"),
        ({"only/links/single.py": "single.py"}, "import only.links.single as it", "it.VALUE, it.__file__", "single"),
        ({"mod": "lib"}, "import mod", "mod.__file__", "__init__.py"),  # a package goes before a module of its name
        ({"data": "data", "pkg/data": "data"}, "import pkg", "open(pkg.DATA).read()", "data"),
        (
            {"pkg/lib": "lib", "pkg/single.py": "single.py"},
            "import pkg, pkgutil",
            "sorted(found.name for found in pkgutil.iter_modules(pkg.__path__))",
            "['deep', 'lib', 'own', 'single']",
        ),
    ],
)
def test_workers_import_and_read_what_a_link_leads_to(project, shared, links, imports, value, expected):
    files(
        project,
        {
            "mod.py": "VALUE = 'own'\n",
            "pkg/__init__.py": "import os\nDATA = os.path.join(os.path.dirname(__file__), 'data', 'x.csv')\n",
            "pkg/own.py": "",
            "pkg/deep/__init__.py": "",
        },
    )
    link(project, {name: shared / target for name, target in links.items()})
    if "lib" not in links:
        files(shared, {"lib/__init__.py": ""})
    same, there = printed(project, CALL.format(imports=imports, value=value)).strip().split(" ", 1)
    assert same == "True" and expected in there


def test_what_is_not_a_link_is_the_snapshot_still_and_rules_hold_for_links(project, shared):
    """A module beside links; a link that a rule leaves out; dangling links and loops."""
    files(project, {"mod.py": "VALUE = 'before'\n", "lib2.py": "VALUE = 'before'\n", ".flameignore": "/single.py\n"})
    link(
        project,
        {
            "lib": shared / "lib",
            "single.py": shared / "single.py",
            "dangling.py": shared / "nothing.py",
            "loop.py": Path("loop.py"),
            "up": Path(".."),
            "there": Path("back"),
            "back": Path("there"),
        },
    )
    out = printed(
        project,
        """
        import importlib.util, pathlib, lib
        def values():
            import lib, lib2, mod
            return lib.VALUE, lib2.VALUE, mod.VALUE
        def found(*names): return [name for name in names if importlib.util.find_spec(name)]
        with Runner("links", workers=1) as rr:
            for name in ("mod.py", "lib2.py", "later.py"):
                pathlib.Path(name).write_text("VALUE = 'after'")
            print(rr.service(values)().get())
            print(rr.service(found)("lib", "single", "dangling", "loop", "there", "later").get())
        """,
    )
    assert out == "('part', 'before', 'before')\n['lib']\n"


def test_the_notice_says_what_workers_and_a_package_for_elsewhere_see(project, shared):
    link(project, {"lib": shared / "lib", "data": shared / "data"})
    files(project, {"mod.py": ""})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Runner("notice", workers=1).close()  # its workers follow them
    with pytest.warns(UserWarning, match=f"{NOTICE}: data, lib$"):
        package = pack(project, project.parent)
    assert package.outside == ["data", "lib"]
    with tarfile.open(package.path) as archive:
        assert [name for name in archive.getnames() if "toml" not in name] == ["mod.py"]
    done = subprocess.run(
        [sys.executable, "-m", "flame_fast", "package", ".", "-o", str(project.parent)],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0 and NOTICE in done.stderr and "workers" not in done.stderr
