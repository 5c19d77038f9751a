"""What stays out of a package: built-in names, and the user's rules in gitignore's syntax.

An entry is judged once, when the walk meets it; what is left out and a directory is not entered. So a rule
need only say whether it matches this very entry, never whether it matches something above it. The last rule
that matches decides; the built-in names stand before the first of the user's rules, so `!.env` brings back
what they leave out.

The user's rules mean what git's own code makes of them (``dir.c`` and ``wildmatch.c``), byte by byte: names
need not be UTF-8. A property test compares them with ``git check-ignore``.

Rejected: pathspec. It judges a path together with all that lies below it, which differs from git for
``!keep`` inside ``keep/*`` and for ``a/**``, and its import costs 30 ms, three times what a whole start may
take here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Iterable

NAMES = frozenset(b".venv venv __pycache__ .pytest_cache .ruff_cache .mypy_cache .git .tox node_modules .DS_Store".split())
SUFFIXES = (b".egg-info", b".pyc", b".pyo")
SECRET_NAMES = frozenset((b".env", b"id_rsa", b"id_ed25519"))

IGNORE_FILE = b".flameignore"

# What becomes of an entry.
KEEP = 0
OMIT = 1
SECRET = 2
SECRET_IF_KEY = 3
"""A secret if there is a private key in it, which only its content tells."""


class IgnoreRules:
    """The rules of one package, built-in and the user's.

    Parameters
    ----------
    lines : iterable of bytes
        The user's rules, in order, one per line.
    """

    __slots__ = ("_rules",)

    def __init__(self, lines: Iterable[bytes] = ()) -> None:
        # Reversed: the last rule that matches decides, so it is the first to be asked.
        self._rules = [rule for rule in map(parse_rule, lines) if rule is not None][::-1]

    def judge(self, path: bytes, name: bytes, is_directory: bool) -> int:
        """Say what becomes of an entry.

        Parameters
        ----------
        path : bytes
            Relative to the package's directory, separated by ``/``.
        name : bytes
            The last part of the path.
        is_directory : bool
            False for a symbolic link, whatever it points to.

        Returns
        -------
        int
            ``KEEP``, ``OMIT``, ``SECRET`` or ``SECRET_IF_KEY``.
        """
        for rule in self._rules:
            if rule.matches(path, name, is_directory):
                return KEEP if rule.negated else OMIT
        if name in NAMES or name.endswith(SUFFIXES):
            return OMIT
        if name in SECRET_NAMES:
            return SECRET
        if name.endswith(b".pem") and not is_directory:
            return SECRET_IF_KEY
        return KEEP


class Rule:
    """One line of an ignore file."""

    __slots__ = ("negated", "directories_only", "by_name", "_literal", "_pattern")

    def __init__(self, text: bytes, *, negated: bool, directories_only: bool, by_name: bool) -> None:
        self.negated = negated
        self.directories_only = directories_only
        self.by_name = by_name
        """Compare the last part of the path alone, at any depth; else the whole path."""
        self._literal: bytes | None = None
        self._pattern: re.Pattern[bytes] | None = None
        if any(byte in b"*?[\\" for byte in text):
            expression = translate(text, whole_path=not by_name)
            if expression is not None:
                import re

                self._pattern = re.compile(expression, re.DOTALL)
        elif text:
            self._literal = text

    def matches(self, path: bytes, name: bytes, is_directory: bool) -> bool:
        if self.directories_only and not is_directory:
            return False
        subject = name if self.by_name else path
        if self._pattern is not None:
            return self._pattern.fullmatch(subject) is not None
        return self._literal == subject


def split_lines(text: bytes) -> list[bytes]:
    """The lines of an ignore file as git takes them, without byte order mark and carriage returns."""
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


def parse_rule(line: bytes) -> Rule | None:
    """Read one line; None for a comment, a blank line, and what git too makes nothing of."""
    if line.startswith(b"#"):
        return None
    text = _trim_trailing_spaces(line)
    negated = text.startswith(b"!")
    if negated:
        text = text[1:]
    directories_only = text.endswith(b"/")
    if directories_only:
        text = text[:-1]
    if not text:
        return None
    by_name = b"/" not in text
    return Rule(text.removeprefix(b"/"), negated=negated, directories_only=directories_only, by_name=by_name)


def _trim_trailing_spaces(line: bytes) -> bytes:
    """Without the spaces at the end, except those that a backslash stands before."""
    end = len(line)
    while end and line[end - 1] == 0x20:
        end -= 1
    if end == len(line):
        return line
    backslashes = end - len(line[:end].rstrip(b"\\"))
    return line[: end + backslashes % 2]


_CLASSES = {
    b"alnum": rb"0-9A-Za-z",
    b"alpha": rb"A-Za-z",
    b"blank": rb"\x20\t",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": rb"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": rb"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb"\x20\t\n\r\x0b\x0c",
    b"upper": rb"A-Z",
    b"xdigit": rb"0-9A-Fa-f",
}


def translate(text: bytes, *, whole_path: bool) -> bytes | None:
    """Turn a wildcard pattern into a regular expression over bytes.

    Parameters
    ----------
    text : bytes
        The pattern, without ``!``, leading and trailing slash.
    whole_path : bool
        Whether it is compared with a path, in which ``*`` stops at ``/`` and ``**`` between slashes does not.

    Returns
    -------
    bytes or None
        None for a pattern that can match nothing (an open bracket, a backslash at the end).
    """
    out = bytearray()
    at = 0
    # git compares the part before the first wildcard as it is and starts the pattern proper behind it: a
    # `**` there counts as one at the beginning.
    begin = next((i for i, byte in enumerate(text) if byte in b"*?[\\"), len(text))
    while at < len(text):
        byte = text[at]
        if byte == 0x5C:  # backslash
            if at + 1 == len(text):
                return None
            out += _escape(text[at + 1])
            at += 2
        elif byte == 0x3F:  # ?
            out += b"[^/]"
            at += 1
        elif byte == 0x2A:  # *
            end = at
            while end < len(text) and text[end] == 0x2A:
                end += 1
            rest = text[end:]
            alone = at <= begin or text[at - 1] == 0x2F
            closed = not rest or rest[0] == 0x2F or rest.startswith(b"\\/")
            if not whole_path or (end - at > 1 and alone and closed):
                if rest.startswith(b"/"):
                    out += b"(?:.*/)?"  # `**/` also matches no directory at all
                    end += 1
                else:
                    out += b".*"
            else:
                out += b"[^/]*"
            at = end
        elif byte == 0x5B:  # [
            bracket = _translate_bracket(text, at)
            if bracket is None:
                return None
            expression, at = bracket
            out += expression
        else:
            out += _escape(byte)
            at += 1
    return bytes(out)


def _escape(byte: int) -> bytes:
    return b"\\x%02x" % byte


def _translate_bracket(text: bytes, at: int) -> tuple[bytes, int] | None:
    """The set that opens at `at`, and where the pattern goes on; None when git takes it for malformed."""
    at += 1
    negated = text[at : at + 1] in (b"!", b"^")
    if negated:
        at += 1
    members = bytearray()
    previous = -1  # the byte that a `-` would range from
    first = True
    while True:
        if at >= len(text):
            return None
        byte = text[at]
        if byte == 0x5D and not first:
            break
        first = False
        if byte == 0x5C:
            at += 1
            if at >= len(text):
                return None
            previous = text[at]
            members += _escape(previous)
        elif byte == 0x2D and previous >= 0 and at + 1 < len(text) and text[at + 1] != 0x5D:
            at += 1
            if text[at] == 0x5C:
                at += 1
                if at >= len(text):
                    return None
            if previous <= text[at]:  # a range that runs backwards adds nothing to its first byte
                members += _escape(previous) + b"-" + _escape(text[at])
            previous = -1
        elif byte == 0x5B and text[at + 1 : at + 2] == b":":
            end = text.find(b"]", at + 2)
            if end < 0:
                return None
            if end > at + 2 and text[end - 1] == 0x3A:
                members_of = _CLASSES.get(text[at + 2 : end - 1])
                if members_of is None:
                    return None
                members += members_of
                previous = -1
                at = end
            else:
                previous = byte
                members += _escape(byte)
        else:
            previous = byte
            members += _escape(byte)
        at += 1
    at += 1
    # A set never matches a slash, and it has a member: its first byte at the least.
    if negated:
        return b"[^/" + bytes(members) + b"]", at
    return b"(?!/)[" + bytes(members) + b"]", at
