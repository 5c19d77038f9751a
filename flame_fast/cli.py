"""Command line: ``python -m flame_fast package`` and ``python -m flame_fast dump``."""

from __future__ import annotations

import argparse
import os
import sys

from flame_fast.errors import FlameError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        The exit status: 0, or 1 if the command failed; `argparse` exits with 2 for arguments that make no sense.
    """
    options = _parser().parse_args(arguments)
    try:
        status = COMMANDS[options.command](options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has seen enough; flushing at its end, the interpreter would complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except FlameError as error:
        print(f"flame_fast: {error.message}", file=sys.stderr)
    except OSError as error:
        print(f"flame_fast: {error}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m flame_fast", description="The Flame Runner on one workstation.")
    commands = parser.add_subparsers(dest="command", required=True)
    package = commands.add_parser(
        "package",
        help="say what a Runner would package of a directory, and why, or write that package",
        description="Says what a Runner would package of a directory: files, bytes, the largest, which rule left out what.",
    )
    package.add_argument("directory", nargs="?", default=".", help="by default the current one")
    package.add_argument("--list", action="store_true", help="list every member")
    package.add_argument("--why", metavar="PATH", action="append", default=[], help="say why PATH is in the package, or not")
    package.add_argument("-o", "--output", metavar="FILE", help="write the package to FILE, or into the directory FILE")
    dump = commands.add_parser(
        "dump",
        help="say what a runner is doing, or why it hangs",
        description="Says what the runners of a process are doing: processes, services, calls, what waits for what, what "
        "looks wrong. Reads only: it works on a runner that hangs, and changes nothing in one that does not.",
    )
    dump.add_argument("pid", metavar="PID", type=int, help="any process of a runner: the driver, its supervisor, a worker")
    dump.add_argument("--all", action="store_true", help="list all calls, not the first ones")
    dump.add_argument("--json", action="store_true", help="print an object of JSON for each runner")
    return parser


def _dump(options: argparse.Namespace) -> int:
    from flame_fast.inspection.dump import dump

    for line in dump(options.pid, everything=options.all, as_json=options.json):
        print(line)
    return 0


def _package(options: argparse.Namespace) -> int:
    from flame_fast.package.explanation import explain
    from flame_fast.package.notices import printable

    explanation = explain(options.directory)
    for path in options.why:
        # A shell completes a path from the current directory; `--list` names it from the packaged one.
        here = os.path.abspath(path)
        print(explanation.why(here if os.path.lexists(here) else path))
    if options.list:
        for path, kind, size in explanation.members:
            print(f"{size:>15,}  {printable(os.fsencode(path))}{'/' if kind == 'directory' else ''}")
    if not (options.why or options.list or options.output):
        print(explanation)
    elif explanation.problem and not options.output:
        print(f"flame_fast: refused: {explanation.problem}", file=sys.stderr)
    if options.output:
        _write(options.directory, options.output)
    return 1 if explanation.problem and not options.why else 0


def _write(directory: str, output: str) -> None:
    from flame_fast.config import FlameContext, home_directory
    from flame_fast.package.explanation import configured_never
    from flame_fast.package.notices import printable
    from flame_fast.package.packing import pack

    configured = FlameContext().package
    never = configured_never(home_directory())
    info = pack(directory, output, excludes=configured.excludes, limit=configured.limit, never=never)
    print(f"{printable(os.fsencode(info.path))}: {info.files:,} files, {info.size:,} bytes, {info.compressed:,} compressed")


#: Each command's name, and the function that runs it and returns its exit status.
COMMANDS = {"dump": _dump, "package": _package}
