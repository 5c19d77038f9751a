"""Trust in directories: what others may write to is refused, and what the package makes is private."""

from __future__ import annotations

import os
import subprocess
from functools import partial

import pytest

from flame_fast import FlameError, FlameErrorCode, Runner, config, list_applications
from flame_fast.application import lifecycle, liveness
from flame_fast.application.registry.database import Registry
from flame_fast.application.storage import open_storage


@pytest.mark.parametrize("which", ["data directory", "package.storage"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_directory_that_others_may_write_to_is_refused(tmp_path, monkeypatch, which, mode):
    """Who may put files there may put code there; the message has the command that ends it."""
    directory = tmp_path / "shared place"
    directory.mkdir()
    directory.chmod(mode)
    if which == "data directory":
        monkeypatch.setenv("FLAME_FAST_HOME", str(directory))
        opened = config.home_directory
    else:
        opened = partial(open_storage, f"file://{directory}", tmp_path)
    with pytest.raises(FlameError, match=which) as caught:
        opened()
    assert caught.value.code is FlameErrorCode.INVALID_CONFIG
    command = caught.value.message.partition("run: ")[2]
    subprocess.run(command, shell=True, check=True)
    opened()


def test_a_directory_of_another_user_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)  # root alone could make the directory another's
    if os.stat(tmp_path).st_uid == 0:
        os.chown(tmp_path, 7, -1)
    with pytest.raises(FlameError, match="belongs to user .* run as root: chown 12345"):
        config.check_trusted(str(tmp_path), "the data directory")


def test_a_directory_in_the_data_directory_that_others_may_write_to_is_refused(project):
    """A package that lies there is unpacked again, and its code runs."""
    with Runner("first", workers=1) as rr:
        home = config.data_home()
    for name in ("packed", "packages", "owners", "tmp", "unpacked"):
        (home / name).chmod(0o755)
        with Runner("again", workers=1) as rr:
            assert rr.service(abs)(-1).get(20) == 1
        assert (home / name).stat().st_mode & 0o777 == 0o700
        for mode in (0o770, 0o1777):
            (home / name).chmod(mode)
            with pytest.raises(FlameError, match=f"the data directory: others may write to .*/{name}") as caught:
                list_applications()
            subprocess.run(caught.value.message.partition("run: ")[2], shell=True, check=True)


def test_what_is_made_in_the_data_directory_is_private_whatever_the_umask(project, tmp_path, monkeypatch):
    home = tmp_path / "private"
    monkeypatch.setenv("FLAME_FAST_HOME", str(home))
    (project / "sub").mkdir()
    (project / "sub" / "run").touch(0o755)
    before = os.umask(0)
    try:
        with Runner("private", workers=1) as rr:
            assert rr.service(abs)(-1).get(20) == 1
            open_to_others = [path for path in [home, *home.rglob("*")] if path.lstat().st_mode & 0o077]
    finally:
        os.umask(before)
    assert open_to_others == []


def test_a_directory_below_one_that_everybody_may_write_to_is_refused(tmp_path):
    """Others could put another in its place; in a sticky one they could not."""
    (tmp_path / "open" / "data").mkdir(parents=True, mode=0o700)
    (tmp_path / "open").chmod(0o707)
    with pytest.raises(FlameError, match="which lies in .*open.* chmod o-w"):
        config.check_trusted(str(tmp_path / "open" / "data"), "the data directory")
    (tmp_path / "open").chmod(0o1777)
    config.check_trusted(str(tmp_path / "open" / "data"), "the data directory")


def test_a_registry_that_others_may_write_to_is_refused_and_one_they_may_read_made_private(nothing_left):
    list_applications()
    registry = nothing_left / "registry.db"
    registry.chmod(0o644)
    list_applications()
    assert registry.stat().st_mode & 0o777 == 0o600
    registry.chmod(0o620)
    with pytest.raises(FlameError, match="the registry: others may write") as caught:
        list_applications()
    subprocess.run(caught.value.message.partition("run: ")[2], shell=True, check=True)
    list_applications()


NAME = f"app-{'0' * 32}.tar.gz"


@pytest.fixture
def mine(tmp_path):
    """Make a directory of the user's, with files that a row may name: one is a package by its name, one is a link."""
    (tmp_path / "mine").mkdir(mode=0o700)
    for name in ("thesis", NAME, "x.lock"):
        (tmp_path / "mine" / name).write_text("mine")
    (tmp_path / "mine" / NAME.replace("0", "1")).symlink_to("thesis")
    return tmp_path / "mine"


@pytest.mark.parametrize("configured", [True, False])
@pytest.mark.parametrize(
    ("token", "package"),
    [
        ("0" * 24, "thesis"),
        ("0" * 24, NAME),
        ("0" * 24, NAME.replace("0", "1")),
        ("0" * 24, "{mine}/thesis"),
        ("{mine}/x", NAME),
        ("{mine}", NAME),
    ],
)
def test_no_row_makes_the_clean_up_delete_what_is_no_package(nothing_left, mine, token, package, configured):
    """In the configured storage, out of the default one, or by way of a token."""
    before = {path: path.lstat().st_ino for path in mine.iterdir()}
    for name in ("owners", "tmp", "packages"):
        (nothing_left / name).mkdir(mode=0o700)
    inside = os.path.relpath(mine, nothing_left / "tmp")  # as from each of the three
    token, package = token.format(mine=inside), package.format(mine=inside)
    with Registry(str(nothing_left)) as registry:
        registry.add_owner(token, "app", "/", str(mine) if configured else None)
        registry.set_package(token, package, "")
    liveness.reap(str(nothing_left), token)
    lifecycle.release_owner(str(nothing_left), token)
    assert {path: path.lstat().st_ino for path in mine.iterdir()} == before
    with Registry(str(nothing_left)) as registry:
        assert registry.owners() == []
