"""Imports of workers: code of the snapshot, `__file__` of the user; which directory is packaged."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from gates import PATIENCE_S

from flame_fast import FlameContext, FlameError, Runner


def run(project: Path, main: str, *options: str, cwd: Path | None = None, **settings: str) -> str:
    """Run a script of the project, which must succeed; return what it prints."""
    (project / "main.py").write_text(textwrap.dedent(main))
    done = subprocess.run(
        [sys.executable, *options, str(project / "main.py")],
        cwd=cwd or project,
        env=os.environ | settings,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files(project: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(textwrap.dedent(text))


BESIDE = {
    "pkg/__init__.py": "",
    "pkg/work.py": """
        import os, pathlib
        HERE = pathlib.Path(__file__).parent
        def read_and_write(number):
            text = (HERE / "data" / "x.csv").read_text() + (HERE.parent / "beside.txt").read_text()
            (HERE / f"result-{number}.txt").write_text(text)
            return __file__, [str(path) for path in (*__path__,)] if "__path__" in globals() else None
        def top():
            here = HERE
            while not (here / ".git").exists():
                here = here.parent
            return str(here)
    """,
    "pkg/data/x.csv": "data ",
    "beside.txt": "beside",
    ".git/HEAD": "",
}


def test_data_beside_a_module_is_read_written_and_looked_for_as_in_the_driver(project):
    files(project, BESIDE)
    with open(project / "pkg" / "data" / "huge", "wb") as file:
        file.truncate(20_000_000)  # so the folder is no part of the package
    out = run(
        project,
        """
        from flame_fast import Runner
        from pkg import work
        with Runner("beside", workers=2) as rr:
            print(rr.get([rr.service(work.read_and_write)(number) for number in range(2)]))
            print(rr.service(work.top)().get())
        """,
    )
    path = str(project / "pkg" / "work.py")
    assert out == f"{[(path, None), (path, None)]}\n{project}\n"
    assert [(project / "pkg" / f"result-{number}.txt").read_text() for number in range(2)] == ["data beside"] * 2


def test_data_of_a_package_is_read_by_its_loader_and_by_resources(project):
    files(project, BESIDE)
    out = run(
        project,
        """
        import importlib.resources, pkgutil
        from flame_fast import Runner
        def read():
            resource = importlib.resources.files("pkg") / "data" / "x.csv"
            return resource.read_text(), pkgutil.get_data("pkg", "data/x.csv").decode()
        with Runner("resources", workers=1) as rr:
            print(rr.service(read)().get())
        """,
    )
    assert out == "('data ', 'data ')\n"


def test_code_is_the_snapshot_s_and_its_traceback_and_source_too(project):
    """Also after the file has been edited, when another version of it is on disk."""
    files(project, {"changing.py": "def value():\n    return 'before'\ndef fail():\n    raise ValueError('before')\n"})
    out = run(
        project,
        """
        import inspect, pathlib, traceback
        import changing
        from flame_fast import Runner
        def source(name):
            import changing, importlib
            return inspect.getsource(getattr(changing, name)), importlib.import_module("changing").__spec__.origin
        with Runner("edited", workers=1) as rr:
            pathlib.Path("changing.py").write_text("# edited\\n" * 3 + "def value(): return 'after'\\ndef fail(): pass\\n")
            print(rr.service(changing.value)().get())
            text, origin = rr.service(source)("fail").get()
            print(text.splitlines()[1].strip(), origin == changing.__file__)
            try:
                rr.service(changing.fail)().get()
            except ValueError as error:
                text = str(error.__cause__)
                print("raise ValueError('before')" in text, changing.__file__ in text, "unpacked" in text)
        """,
    )
    assert out.splitlines() == ["before", "raise ValueError('before') True", "True True False"]


def test_an_editable_install_is_the_snapshot_too(project):
    """A finder that maps a name to the project's directory, as setuptools writes one, which is not on `sys.path`."""
    files(project, {"src/edited/__init__.py": "VALUE = 'before'\n", "src/edited/sub.py": "VALUE = 'before'\n"})
    site = project.parent / "site"
    files(
        site,
        {
            "usercustomize.py": "",
            "editable_finder.py": """
                import sys
                from importlib.util import spec_from_file_location
                MAPPING = {"edited": %r}
                class Finder:
                    @classmethod
                    def find_spec(cls, name, path=None, target=None):
                        if name in MAPPING:
                            return spec_from_file_location(name, MAPPING[name] + "/__init__.py",
                                                           submodule_search_locations=[MAPPING[name]])
                sys.meta_path.append(Finder)
            """.replace("%r", repr(str(project / "src" / "edited"))),
            "sitecustomize.py": "import editable_finder",
        },
    )
    out = run(
        project,
        """
        import pathlib
        import edited, edited.sub
        from flame_fast import Runner
        def values():
            import edited, edited.sub
            return edited.VALUE, edited.sub.VALUE, edited.__file__
        with Runner("editable", workers=1) as rr:
            for path in pathlib.Path("src/edited").glob("*.py"):
                path.write_text("VALUE = 'after'")
            print(rr.service(values)().get() == ("before", "before", edited.__file__))
        """,
        PYTHONPATH=str(site),
    )
    assert out == "True\n"


def test_namespace_packages_and_zip_files_of_the_project_are_found(project):
    import zipfile

    files(project, {"space/one.py": "VALUE = 1\n"})
    with zipfile.ZipFile(project / "packed.zip", "w") as packed:
        packed.writestr("zipped.py", "VALUE = 2\n")
    out = run(
        project,
        """
        import os, sys
        sys.path.append(os.path.abspath("packed.zip"))
        from flame_fast import Runner
        def values():
            import space.one, zipped
            return space.one.VALUE, zipped.VALUE, space.one.__file__, list(space.__path__)
        with Runner("namespace", workers=1) as rr:
            print(rr.service(values)().get() == values())
        """,
    )
    assert out == "True\n"


def test_bytecode_of_the_snapshot_never_goes_where_the_driver_s_is(project, tmp_path):
    """Nor into a directory that all programs share: equal sizes and times would take one for the other."""
    files(project, {"mod.py": "VALUE = 1\n"})
    out = run(
        project,
        """
        from flame_fast import Runner
        def value():
            import mod
            return mod.VALUE
        with Runner("bytecode", workers=1) as rr:
            print(rr.service(value)().get())
        """,
        PYTHONPYCACHEPREFIX=str(tmp_path / "shared"),
        PYTHONDONTWRITEBYTECODE="",
    )
    assert out == "1\n"
    assert not list((tmp_path / "shared").rglob("mod.*")) and not list(project.rglob("*.pyc"))


# ---- which directory -----------------------------------------------------------------------------------------------------


MAIN = """
    import sys
    from flame_fast import Runner
    def where():
        import mod
        return type(mod.__loader__).__name__, mod.VALUE
    with Runner("which", workers=1{options}) as rr:
        print(rr.service(where)().get())
"""
PACKAGED, LIVE = "('SnapshotSourceLoader', 1)\n", "('SourceFileLoader', 1)\n"


@pytest.mark.parametrize(
    ("options", "settings", "printed"),
    [
        ("", {}, PACKAGED),
        (", package=True", {"FLAME_FAST_PACKAGE": "0"}, PACKAGED),
        (", package=False", {"FLAME_FAST_PACKAGE": "1"}, LIVE),
        ("", {"FLAME_FAST_PACKAGE": "off"}, LIVE),
        ("", {"FLAME_FAST_PACKAGE": "true"}, PACKAGED),
        ("", {"FLAME_FAST_PACKAGE": "."}, PACKAGED),
        (", package='src'", {}, LIVE),  # another directory than that of the module
        (", package=sys.path[0]", {}, PACKAGED),
    ],
)
def test_a_runner_an_environment_variable_and_a_default_say_what_is_packaged(project, options, settings, printed):
    files(project, {"mod.py": "VALUE = 1\n", "src/other.py": ""})
    assert run(project, MAIN.format(options=options), **settings) == printed


def test_the_configuration_says_whether_anything_is_packaged(project, tmp_path):
    files(project, {"mod.py": "VALUE = 1\n"})
    config = tmp_path / "flame.yaml"
    config.write_text("current-context: here\ncontexts:\n  - name: here\n    package:\n      enabled: false\n")
    assert run(project, MAIN.format(options=""), FLAME_CONF=str(config)) == LIVE
    assert run(project, MAIN.format(options=", package=True"), FLAME_CONF=str(config)) == PACKAGED
    config.write_text(config.read_text().replace("false", "'no'"))
    with pytest.raises(FlameError, match=r"package.enabled in .*: expected true or false, got str 'no'"):
        FlameContext(config)


def test_another_directory_than_the_current_one_is_packaged(project, tmp_path):
    """Workers run where the driver does, and import what it imports."""
    files(project, {"mod.py": "VALUE = 1\n"})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    out = run(
        project,
        """
        import os
        from flame_fast import Runner
        def where():
            import mod
            return type(mod.__loader__).__name__, os.getcwd()
        with Runner("other", workers=1, package=os.path.dirname(__file__), excludes=["*.csv"]) as rr:
            print(rr.service(where)().get())
        """,
        cwd=elsewhere,
    )
    assert out == f"('SnapshotSourceLoader', {str(elsewhere)!r})\n"


def test_rules_of_a_runner_leave_out_what_they_say(project):
    files(project, {"mod.py": "VALUE = 1\n", "left.py": ""})

    def names():
        import importlib.util

        return [name for name in ("mod", "left") if importlib.util.find_spec(name)]

    sys.path.insert(0, str(project))
    try:
        with Runner("rules", workers=1, excludes=["/left.py"]) as rr:
            assert rr.service(names)().get(PATIENCE_S) == ["mod"]
    finally:
        sys.path.remove(str(project))


@pytest.mark.parametrize("package", ["missing", 3, b"x"])
def test_what_is_no_directory_is_refused(project, package):
    with pytest.raises(FlameError, match="package: expected True, False or a directory's path"):
        Runner("refused", package=package)
    with pytest.raises(FlameError, match="excludes: expected a sequence of rules"):
        Runner("refused", excludes="data/")


@pytest.mark.parametrize("place", ["", "Downloads"])
def test_a_home_directory_is_not_packaged_unless_it_is_a_project(tmp_path, place):
    home = tmp_path / "somebody"
    where = home / place
    where.mkdir(parents=True)
    files(where, {"mod.py": "VALUE = 1\n"})
    settings = {"HOME": str(home)}
    assert run(where, MAIN.format(options=""), "-W", "ignore", **settings) == LIVE
    assert run(where, MAIN.format(options=", package=True"), "-W", "error", **settings) == PACKAGED
    with pytest.raises(AssertionError, match=r"is your (home directory|folder Downloads), not a project's directory"):
        run(where, MAIN.format(options=""), "-W", "error", **settings)
    (where / "pyproject.toml").write_text("[project]\nname = 'x'\nversion = '0'\n")
    assert run(where, MAIN.format(options=""), "-W", "error", **settings) == PACKAGED
