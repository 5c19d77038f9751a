"""The project's own metadata and resources in workers, as installed in an editable way or lying in the project."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gates import PATIENCE_S

SOURCES = {
    "acme/__init__.py": """
        import importlib.metadata as metadata, importlib.resources as resources
        __version__ = metadata.version("acme-project")
        NAMES = sorted(found.name for found in metadata.entry_points(group="acme.plugins"))
        TEXT = (resources.files("acme") / "data.txt").read_text()
        FILES = sorted(str(path) for path in metadata.files("acme-project") or () if "egg" not in str(path))
        class Thing: pass
    """,
    "acme/data.txt": "resource",
    "acme/plugin.py": "def run(): return 'plugin'\n",
}
PYPROJECT = """
    [build-system]
    requires = ["setuptools"]
    build-backend = "setuptools.build_meta"
    [project]
    name = "acme-project"
    version = "1.2.3"
    [project.entry-points."acme.plugins"]
    one = "acme.plugin:run"
    [tool.setuptools.package-data]
    acme = ["data.txt"]
"""
MAIN = """
    import importlib.metadata as metadata, importlib.resources as resources, sys
    import acme
    from flame_fast import Runner
    def seen():
        import acme
        [plugin] = metadata.entry_points(group="acme.plugins")
        return (
            acme.__version__, acme.NAMES, acme.TEXT, acme.FILES, acme.__file__,
            metadata.version("acme-project"), plugin.load()(), metadata.distribution("acme-project").metadata["Name"],
            (resources.files("acme") / "data.txt").read_text(),
            sorted(found.version for found in metadata.distributions() if found.metadata["Name"] == "acme-project"),
        )
    with Runner("metadata", workers=1) as rr:
        print(rr.service(seen)().get() == seen(), acme.__version__, acme.NAMES, acme.TEXT)
        print(type(rr.service(lambda kind: kind())(acme.Thing).get()) is acme.Thing)
        def made():
            import acme
            return acme.Thing()
        print(type(rr.service(made)().get()) is acme.Thing)
"""
PRINTED = "True 1.2.3 ['one'] resource\nTrue\nTrue\n"


def files(directory: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(textwrap.dedent(text))


def build_with_setuptools(project: Path, command: str, **options: str) -> str:
    """Call setuptools in the project as a build front end does; return the name of what it made."""
    code = f"import os; from setuptools import build_meta; print(); print(build_meta.{command}(**{options!r}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project, capture_output=True, text=True, timeout=3 * PATIENCE_S, check=True
    )
    return done.stdout.splitlines()[-1]


def run_main(project: Path, *paths: Path, cwd: Path | None = None) -> str:
    files(project, {"main.py": MAIN})
    sites = "".join(f"import site; site.addsitedir({str(path)!r})\n" for path in paths)
    files(project.parent / "customize", {"sitecustomize.py": sites})
    done = subprocess.run(
        [sys.executable, str(project / "main.py")],
        cwd=cwd or project,
        env=os.environ | {"PYTHONPATH": str(project.parent / "customize")},
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("rules", ["", "/pyproject.toml\n*.txt\n"])
@pytest.mark.parametrize("source", ["src", "."])
def test_metadata_beside_the_sources(project, source, rules):
    """`*.egg-info`, which no package has, in a directory that is on `sys.path`."""
    files(project / source, SOURCES)
    files(
        project, {"pyproject.toml": textwrap.dedent(PYPROJECT) + f'[tool.setuptools.packages.find]\nwhere = ["{source}"]\n'}
    )
    files(project, {".flameignore": rules})
    code = "import sys; sys.argv = ['setup.py', '-q', 'egg_info']; import setuptools; setuptools.setup()"
    subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, timeout=3 * PATIENCE_S, check=True)
    assert list((project / source).glob("*.egg-info"))
    site = project.parent / "site"
    files(site, {"acme.pth": str(project / source)})
    assert run_main(project, site) == PRINTED


@pytest.mark.parametrize("kind", ["lenient", "strict", "compat", "namespace"])
def test_an_editable_install_of_setuptools(project, kind):
    """Its `.dist-info` in `site-packages`; a path, links, a finder for packages, one for a namespace."""
    source = "src" if kind in ("lenient", "compat") else "code/of"
    files(project / source, SOURCES)
    mapped = {
        "lenient": '[tool.setuptools.packages.find]\nwhere = ["src"]\n',
        "compat": '[tool.setuptools.packages.find]\nwhere = ["src"]\n',
        "strict": f'[tool.setuptools]\npackages = ["acme"]\npackage-dir = {{"acme" = "{source}/acme"}}\n',
        "namespace": f'[tool.setuptools]\npackages = ["acme", "spaced.inner"]\n'
        f'package-dir = {{"acme" = "{source}/acme", "spaced.inner" = "{source}/inner"}}\n',
    }[kind]
    files(
        project, {"pyproject.toml": textwrap.dedent(PYPROJECT) + mapped, f"{source}/inner/__init__.py": "VALUE = 'inner'\n"}
    )
    wheels = project.parent / "wheels"
    wheels.mkdir()
    wheel = build_with_setuptools(project, "build_editable", wheel_directory=str(wheels))
    site = project.parent / "site"
    shutil.unpack_archive(wheels / wheel, site, "zip")
    for left in (*project.rglob("*.egg-info"), *project.glob("build")):
        shutil.rmtree(left)
    if kind == "namespace":
        text = MAIN.replace(
            "import acme\n    from", "import acme, spaced.inner\n    acme.FILES.append(spaced.inner.VALUE)\n    from", 1
        )
        text = text.replace(
            "        import acme\n        [plugin]", "        import acme, spaced.inner\n        [plugin]", 1
        )
        text = text.replace("acme.FILES, acme", "spaced.inner.VALUE, acme", 1)
        files(project, {"other.py": text})
    assert run_main(project, site) == PRINTED
    if kind == "namespace":
        (project / "main.py").write_text((project / "other.py").read_text())
        done = subprocess.run(
            [sys.executable, "main.py"],
            cwd=project,
            env=os.environ | {"PYTHONPATH": str(project.parent / "customize")},
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE_S,
        )
        assert (done.stdout, done.returncode) == (PRINTED, 0), done.stderr
