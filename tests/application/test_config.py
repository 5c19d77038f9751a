"""The configuration file and the data directory (API.md, Configuration)."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from flame_fast.config import (
    DEFAULT_LIMIT,
    FlameContext,
    FlamePackage,
    FlameRunnerConfig,
    data_home,
)
from flame_fast.errors import FlameError, FlameErrorCode

FULL = """
current-context: here
contexts:
  - name: there
    cluster: {endpoint: "http://there:8080"}
  - name: here
    cluster: {endpoint: "http://here:8080", tls: null}
    cache: {endpoint: "grpc://here:9090"}
    package:
      storage: file:///srv/packages
      excludes: [data/, "!keep.csv"]
      limit: 2g
    runner:
      template: mine
"""


@pytest.fixture(autouse=True)
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("FLAME_CONF", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def written(directory: Path, text: str | bytes) -> str:
    path = directory / "conf.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def refused(path: str | None) -> str:
    with pytest.raises(FlameError) as caught:
        FlameContext(path)
    assert caught.value.code == FlameErrorCode.INVALID_CONFIG
    return caught.value.message


def test_without_a_file_the_defaults_hold() -> None:
    context = FlameContext()
    assert (context.name, context.path) == (None, None)
    assert context.package == FlamePackage(None, (), 500 * 1024**2)
    assert context.runner == FlameRunnerConfig("flmrun")
    assert context.cache is None


def test_every_key_is_read_and_the_cluster_s_are_ignored(tmp_path: Path) -> None:
    path = written(tmp_path, FULL)
    context = FlameContext(path)
    assert (context.name, context.path) == ("here", path)
    assert context.package == FlamePackage("file:///srv/packages", ("data/", "!keep.csv"), 2 * 1024**3)
    assert context.runner.template == "mine"
    assert context.cache is None


def test_keys_left_out_keep_their_defaults(tmp_path: Path) -> None:
    context = FlameContext(written(tmp_path, "current-context: a\ncontexts: [{name: a, package: {}}]"))
    assert context.package == FlamePackage(excludes=())
    assert context.package.limit == DEFAULT_LIMIT
    assert context.runner.template == "flmrun"


def test_a_package_s_own_default_excludes_are_flame_s() -> None:
    """Those of the context are not: what is packaged without a word about it does not change."""
    assert FlamePackage("file:///a").excludes == (".venv", "__pycache__", ".gitignore", "*.pyc")
    assert FlamePackage("file:///a", ["b"]).excludes == ("b",)
    assert FlameContext().package.excludes == ()


def test_the_given_path_wins_over_the_environment_and_that_over_the_default(
    tmp_path: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(path: Path, name: str) -> Path:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"current-context: {name}\ncontexts: [{{name: {name}}}]")
        return path

    named(user / ".flame" / "flame.yaml", "default")
    assert FlameContext().name == "default"
    monkeypatch.setenv("FLAME_CONF", str(named(tmp_path / "env.yaml", "env")))
    assert FlameContext().name == "env"
    assert FlameContext(named(tmp_path / "given.yaml", "given")).name == "given"
    monkeypatch.setenv("FLAME_CONF", "")
    assert FlameContext().name == "default"


def test_a_named_file_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = str(tmp_path / "missing.yaml")
    assert missing in refused(missing)
    monkeypatch.setenv("FLAME_CONF", missing)
    message = refused(None)
    assert missing in message
    assert "$FLAME_CONF" in message
    assert str(tmp_path) in refused(str(tmp_path))  # a directory


def test_a_default_file_that_is_there_must_be_right(user: Path) -> None:
    (user / ".flame").mkdir()
    (user / ".flame" / "flame.yaml").write_text("")
    assert "flame.yaml' is empty" in refused(None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("current-context: a\ncontexts: [}\n", "line 2"),
        ("a: b\n  c: d: e\n", "line 2"),
        (b"\xff\xfe\xfd", "not valid YAML"),
        ("current-context: \x00", "not valid YAML"),
        ("a: 2024-13-45", "not valid YAML"),
        ("", "is empty"),
        ("# nothing but a comment\n", "is empty"),
        ("null", "is empty"),
        ("- a\n- b\n", "expected a mapping, got list"),
        ("text", "expected a mapping, got str 'text'"),
        ("contexts: [{name: a}]", "current-context in {path}: expected text, got no such key"),
        (
            "current-context: null\ncontexts: [{name: a}]",
            "current-context in {path}: expected text, got null",
        ),
        ("current-context: 7\ncontexts: [{name: a}]", "current-context in {path}: expected text, got int 7"),
        ("current-context: a", "contexts in {path}: expected a list, got no such key"),
        ("current-context: a\ncontexts:", "contexts in {path}: expected a list, got null"),
        ("current-context: a\ncontexts: {a: 1}", "contexts in {path}: expected a list, got dict"),
        ("current-context: a\ncontexts: [a]", "contexts[0] in {path}: expected a mapping, got str"),
        (
            "current-context: a\ncontexts: [{nam: a}]",
            "contexts[0].name in {path}: expected text, got no such key",
        ),
        (
            "current-context: a\ncontexts: [{name: null}]",
            "contexts[0].name in {path}: expected text, got null",
        ),
        (
            "current-context: a\ncontexts: []",
            "current-context in {path}: expected a name that contexts lists (none, since contexts is empty), got 'a'",
        ),
        (
            "current-context: a\ncontexts: [{name: b}, {name: c}]",
            "current-context in {path}: expected a name that contexts lists ('b', 'c'), got 'a'",
        ),
    ],
)
def test_what_is_wrong_with_the_file_is_named(tmp_path: Path, text: str | bytes, expected: str) -> None:
    path = written(tmp_path, text)
    message = refused(path)
    assert repr(path) in message
    assert expected.replace("{path}", repr(path)) in message


@pytest.mark.parametrize(
    ("body", "key", "expected"),
    [
        ("package: null", "package", "a mapping, got null"),
        ("package: [1]", "package", "a mapping, got list"),
        ("package: {storage: null}", "package.storage", "text, got null"),
        ("package: {storage: 3}", "package.storage", "text, got int 3"),
        ("package: {storage: ''}", "package.storage", "text, got empty text"),
        ("package: {excludes: null}", "package.excludes", "a list, got null"),
        ("package: {excludes: data}", "package.excludes", "a list, got str 'data'"),
        ("package: {excludes: [a, 1]}", "package.excludes[1]", "text, got int 1"),
        ("package: {limit: null}", "package.limit", "a number of bytes"),
        ("package: {limit: true}", "package.limit", "a number of bytes"),
        ("package: {limit: 0}", "package.limit", "a number of bytes"),
        ("package: {limit: -5}", "package.limit", "a number of bytes"),
        ("package: {limit: 1.5}", "package.limit", "a number of bytes"),
        ("package: {limit: 2x}", "package.limit", "a number of bytes"),
        ("package: {limit: '-2g'}", "package.limit", "a number of bytes"),
        ("runner: null", "runner", "a mapping, got null"),
        ("runner: flmrun", "runner", "a mapping, got str"),
        ("runner: {template: null}", "runner.template", "text, got null"),
        ("runner: {template: [a]}", "runner.template", "text, got list"),
    ],
)
def test_a_key_of_another_type_is_named(tmp_path: Path, body: str, key: str, expected: str) -> None:
    message = refused(written(tmp_path, f"current-context: a\ncontexts: [{{name: a, {body}}}]"))
    assert f"contexts[0].{key} in " in message
    assert f"expected {expected}" in message


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7),
        ("'7'", 7),
        ("1k", 1024),
        ("64KiB", 65536),
        ("'500 MB'", 500 * 1024**2),
        ("2G", 2 * 1024**3),
        ("1tb", 1024**4),
    ],
)
def test_sizes_have_binary_suffixes(tmp_path: Path, text: str, size: int) -> None:
    path = written(tmp_path, f"current-context: a\ncontexts: [{{name: a, package: {{limit: {text}}}}}]")
    assert FlameContext(path).package.limit == size


def test_data_lives_in_the_named_directory_made_for_the_user_alone(tmp_path: Path) -> None:
    assert data_home() == tmp_path / "data"
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert data_home() == tmp_path / "data"


def test_data_lives_in_the_platform_s_directory_by_default(
    tmp_path: Path, user: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import platformdirs

    monkeypatch.delenv("FLAME_FAST_HOME")
    for base in (None, str(tmp_path / "xdg"), " "):
        if base is not None:
            monkeypatch.setenv("XDG_DATA_HOME", base)
        assert data_home() == Path(platformdirs.user_data_dir("flame_fast"))
    monkeypatch.setenv("FLAME_FAST_HOME", "")
    assert data_home() == user / ".local" / "share" / "flame_fast"


def test_a_relative_data_directory_does_not_move_with_the_current_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLAME_FAST_HOME", "here")
    assert data_home() == tmp_path / "here"


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLAME_FAST_HOME", str(tmp_path / "file" / "data"))
    with pytest.raises(FlameError, match="cannot make the data directory .*FLAME_FAST_HOME") as caught:
        data_home()
    assert caught.value.code == FlameErrorCode.INVALID_CONFIG


def test_what_may_not_be_needed_is_not_imported(tmp_path: Path) -> None:
    heavy = (
        "yaml",
        "pathlib",
        "platformdirs",
        "tarfile",
        "hashlib",
        "json",
        "dataclasses",
        "pathspec",
        "packaging",
    )
    code = f"""
import sys
bare = set(sys.modules)
from flame_fast.config import FlameContext
import flame_fast.application.lifecycle
FlameContext()
new = set(sys.modules) - bare
print(*sorted(new & {set(heavy)!r}))
"""
    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n", "")


LAUGHS = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
DOUBLED = "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"a0: &a0 [x]\n{LAUGHS}current-context: *a29\ncontexts: []", "line 13: more than 100 aliases"),
        (f"a0: &a0 [x]\n{DOUBLED}current-context: *a39", "got list"),
        ("#" * (1 << 20), "is empty"),
        ("#" * ((1 << 20) + 1), "it has more than 1,048,576 bytes"),
    ],
)
def test_a_file_that_would_grow_without_bound_is_refused_at_once(tmp_path: Path, text: str, expected: str) -> None:
    message = refused(written(tmp_path, text))
    assert expected in message
    assert len(message) < 1000


@pytest.mark.parametrize(
    "text",
    [
        "current-context: {long}\ncontexts: []",
        "current-context: a\ncontexts: [{{name: {long}}}, {{name: {long}b}}]",
        "current-context: a\ncontexts: [{{name: a, package: {{limit: {long}}}}}]",
        "current-context: [{long}]",
        "a: *{long}",
    ],
)
def test_what_a_file_says_is_cut_in_messages(tmp_path: Path, text: str) -> None:
    assert len(refused(written(tmp_path, text.format(long="x" * 100_000)))) < 1000


def test_what_is_no_regular_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    assert "it is no regular file" in refused(str(tmp_path / "fifo"))
    assert "it is no regular file" in refused("/dev/zero")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("current-context: a\ncontexts: [{name: a}]\ncurrent-context: b", 3, "the key 'current-context'"),
        ('current-context: a\n"current-context": b\ncontexts: [{name: a}]', 2, "the key 'current-context'"),
        ("current-context: a\ncontexts:\n- name: a\n  name: b", 4, "the key 'name' is there already, in line 3"),
        (
            "current-context: a\ncontexts:\n- name: a\n  package:\n    excludes: [a]\n    limit: 1g\n    excludes: [b]",
            7,
            "the key 'excludes' is there already, in line 5",
        ),
        ("current-context: a\ncontexts:\n- name: a\n- name: b\n  cluster: {a: 1,\n    a: 2}", 6, "the key 'a'"),
        ("x: {a: 1, a: 2}\ncurrent-context: a\ncontexts: [{name: a}]\nx: 2", 1, "the key 'a'"),
    ],
)
def test_a_key_given_twice_is_an_error(tmp_path: Path, text: str, line: int, told: str) -> None:
    """Only the last one would count, and another reader may take the first."""
    path = written(tmp_path, text)
    message = refused(path)
    assert f"the configuration file {path!r} is not valid YAML, line {line}: {told}" in message
    assert message.endswith("; leave one of the two")


def test_keys_of_merged_mappings_are_not_given_twice(tmp_path: Path) -> None:
    text = """
base: &base {storage: file:///a, limit: 1k}
more: &more {excludes: [x]}
current-context: a
contexts:
- name: a
  package: {<<: *base, limit: 3k}
- name: b
  package: {<<: [*more, *base]}
"""
    assert FlameContext(written(tmp_path, text)).package == FlamePackage("file:///a", (), 3 << 10)
    text = text.replace("current-context: a", "current-context: b")
    assert FlameContext(written(tmp_path, text)).package == FlamePackage("file:///a", ("x",), 1 << 10)
    text = text.replace("more: &more {excludes: [x]}", "more: &more {limits: 2k}")
    assert "line 3: there is no such key; did you mean 'limit'?" in refused(written(tmp_path, text))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("exclude", "excludes"),
        ("Excludes", "excludes"),
        ("excluded", "excludes"),
        ("limits", "limit"),
        ("largest-file", "largest_file"),
        ("largestFile", "largest_file"),
        ("enable", "enabled"),
        ("LIMIT", "limit"),
        ("packages", "package"),
        ("runners", "runner"),
        ("templates", "template"),
    ],
)
def test_a_key_that_is_nearly_one_of_ours_is_an_error(tmp_path: Path, wrong: str, right: str) -> None:
    section = {"package": "", "runner": "", "template": "runner"}.get(right, "package")
    value = "{}" if not section else "x"
    inner = f"  {section}:\n    {wrong}: {value}" if section else f"  {wrong}: {value}"
    path = written(tmp_path, f"current-context: a\ncontexts:\n- name: a\n{inner}\n")
    key = ".".join(filter(None, ("contexts[0]", section, wrong)))
    line = 5 if section else 4
    assert refused(path) == f"{key} in {path!r}, line {line}: there is no such key; did you mean {right!r}?"


@pytest.mark.parametrize("right", ["storage", "excludes", "limit", "largest_file", "enabled"])
def test_a_key_without_one_of_its_letters_is_an_error(tmp_path: Path, right: str) -> None:
    for at in range(len(right)):
        wrong = right[:at] + right[at + 1 :]
        path = written(tmp_path, f"current-context: a\ncontexts: [{{name: a, package: {{{wrong}: x}}}}]")
        assert f"did you mean {right!r}?" in refused(path)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("current_context: a\ncontexts: [{name: a}]", "got no such key, but 'current_context' in line 1"),
        ("currentContext: a\ncontexts: [{name: a}]", "got no such key, but 'currentContext' in line 1"),
        (
            "current-context: a\n\ncontext: [{name: a}]",
            "contexts in {path}: expected a list, got no such key, but 'context' in",
        ),
        (
            "current-context: a\ncontexts:\n- nme: a",
            "contexts[0].name in {path}: expected text, got no such key, but 'nme' in",
        ),
        (
            "current-context: a\ncontexts: [{name: a}]\ncurent-context: b",
            "curent-context in {path}, line 3: there is no such",
        ),
    ],
)
def test_a_misspelt_key_that_must_be_there_is_pointed_to(tmp_path: Path, text: str, told: str) -> None:
    path = written(tmp_path, text)
    assert told.replace("{path}", repr(path)) in refused(path)


def test_keys_of_the_cluster_stay_ignored(tmp_path: Path) -> None:
    """Those of Flame's own files, and whatever is far from a key used here."""
    text = """
kind: Config
users: [{name: me}]
7: seven
current-context: a
contexts:
- name: a
  app: mine
  workspace: default
  cluster: {endpoint: "https://there:8080", tls: {ca_file: ca, cert_file: cert, key_file: key}}
  cache: {endpoint: "grpcs://there:9090", storage: /cache, tls: null}
  package: {storage: file:///a, registry: x, image: y}
  runner: {shim: host}
- name: b
  packagee: nobody looks here
"""
    assert FlameContext(written(tmp_path, text)).package.storage == "file:///a"
