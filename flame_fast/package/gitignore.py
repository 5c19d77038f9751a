"""Ignore rules of a package: built-in names, and the user's rules in gitignore's syntax.

The walk judges an entry once, when it meets it, and does not enter a directory that is left out. So a rule only says
whether it matches this very entry, never whether it matches something above it. The last rule that matches
decides; the built-in names stand before the first of the user's rules, so `!.env` brings back what they leave out.

The user's rules mean what git's own code makes of them (``dir.c`` and ``wildmatch.c``), byte by byte: names
need not be UTF-8. A property test compares them with ``git check-ignore``. This module parses them once; the
native `Matcher` matches them, in a time bounded by pattern times path.

Rejected: pathspec. It judges a path together with all that lies below it, which differs from git for
``!keep`` inside ``keep/*`` and for ``a/**``, and its import costs 30 ms, three times what a whole start may
take here.
"""

from __future__ import annotations

from flame_fast.kernels import archive

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    Token = tuple[int, bytes]

IGNORE_FILE = b".flameignore"

_WILDCARDS = b"*?[\\"

_OMITTED = (
    b".venv venv __pycache__ .pytest_cache .ruff_cache .mypy_cache *.egg-info .git .tox node_modules *.pyc *.pyo .DS_Store"
)
_SECRETS = b".env id_rsa id_dsa id_ecdsa id_ecdsa_sk id_ed25519 id_ed25519_sk .netrc _netrc .pypirc .pgpass .aws .ssh .gnupg"

#: What holds a private key, or a token, only sometimes.
_DOUBTFUL = b"*.pem *.key .npmrc .yarnrc"

#: Names and verdicts of the built-in rules.
_BUILT_IN = [
    *[(name, archive.VERDICT_OMIT) for name in _OMITTED.split()],
    *[(name, archive.VERDICT_SECRET) for name in _SECRETS.split()],
    *[(name, archive.VERDICT_SECRET_IF_KEY) for name in _DOUBTFUL.split()],
]


class IgnoreRules:
    """The rules of one package: the built-in ones, then the user's.

    Parameters
    ----------
    lines : iterable of (str, bytes)
        The user's rules, in order: where each stands, and its line.

    Attributes
    ----------
    matcher : flame_fast.kernels.archive.Matcher
        For the walk.
    """

    __slots__ = ("matcher", "_rules")

    def __init__(self, lines: Iterable[tuple[str, bytes]] = ()) -> None:
        rules = [rule for origin, line in lines if (rule := parse_rule(line, origin)) is not None]
        self._rules = [rule for rule in rules if rule.tokens is not None]  # the user's; few ask about the others
        built_in = [(verdict, True, _about(verdict), tokenize(name, whole_path=False)) for name, verdict in _BUILT_IN]
        self.matcher: archive.Matcher = archive.Matcher(
            built_in + [(rule.verdict, rule.by_name, rule.about, rule.tokens) for rule in self._rules]
        )

    def __getitem__(self, number: int) -> Rule:
        """Return the rule with a number that the matcher gave."""
        if number >= len(_BUILT_IN):
            return self._rules[number - len(_BUILT_IN)]
        name, verdict = _BUILT_IN[number]
        return Rule(name, line=name, origin="built in", verdict=verdict, about=_about(verdict), by_name=True)

    def deciding(self, path: bytes, is_directory: bool) -> Rule | None:
        """Return the rule that decides about an entry; None when no rule matches: then it is packed.

        Parameters
        ----------
        path : bytes
            Relative to the package's directory, separated by ``/``.
        is_directory : bool
            False for a symbolic link, whatever it points to.
        """
        number = self.matcher.decide(path, is_directory)
        return self[number] if number >= 0 else None

    def judge(self, path: bytes, is_directory: bool) -> int:
        """Return the verdict on an entry, one of ``archive.VERDICT_...``."""
        rule = self.deciding(path, is_directory)
        return rule.verdict if rule else archive.VERDICT_KEEP


class Rule:
    """One line of an ignore file.

    Attributes
    ----------
    line : bytes
        As it was written.
    origin : str
        Where it stands.
    tokens : list or None
        The matcher's program; None for a pattern that can match nothing.
    by_name : bool
        True: the rule is compared with the last part of a path, at any depth. False: with the whole path.
    """

    __slots__ = ("line", "origin", "verdict", "about", "by_name", "tokens")

    def __init__(self, text: bytes, *, line: bytes, origin: str, verdict: int, about: int, by_name: bool) -> None:
        self.line: bytes = line
        self.origin: str = origin
        self.verdict: int = verdict
        self.about: int = about
        self.by_name: bool = by_name
        self.tokens: list[Token] | None = tokenize(text, whole_path=not by_name)

    def __str__(self) -> str:
        return f"{ascii(self.line.decode('utf-8', 'surrogateescape'))} ({self.origin})"


def _about(verdict: int) -> int:
    return archive.ABOUT_FILES if verdict == archive.VERDICT_SECRET_IF_KEY else archive.ABOUT_ANY_KIND


def split_lines(text: bytes) -> list[bytes]:
    """Return the lines of an ignore file as git takes them, without byte order mark and carriage returns."""
    lines = text.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [line.removesuffix(b"\r") for line in lines]


def parse_rule(line: bytes, origin: str = "") -> Rule | None:
    """Parse one line; None for a comment, a blank line, and a line that git ignores, too."""
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
    return Rule(
        text.removeprefix(b"/"),
        line=line,
        origin=origin,
        verdict=archive.VERDICT_KEEP if negated else archive.VERDICT_OMIT,
        about=archive.ABOUT_DIRECTORIES if directories_only else archive.ABOUT_ANY_KIND,
        by_name=b"/" not in text,
    )


def _trim_trailing_spaces(line: bytes) -> bytes:
    """Return a line without the spaces at its end, except those behind a backslash."""
    end = len(line)
    while end and line[end - 1] == 0x20:
        end -= 1
    if end == len(line):
        return line
    backslashes = end - len(line[:end].rstrip(b"\\"))
    return line[: end + backslashes % 2]


#: Character classes as pairs of a first and a last byte.
_CLASSES = {
    b"alnum": b"09AZaz",
    b"alpha": b"AZaz",
    b"blank": b"  \t\t",
    b"cntrl": b"\x00\x1f\x7f\x7f",
    b"digit": b"09",
    b"graph": b"\x21\x7e",
    b"lower": b"az",
    b"print": b"\x20\x7e",
    b"punct": b"\x21\x2f\x3a\x40\x5b\x60\x7b\x7e",
    b"space": b"  \t\r",
    b"upper": b"AZ",
    b"xdigit": b"09AFaf",
}


def tokenize(text: bytes, *, whole_path: bool) -> list[Token] | None:
    """Turn a pattern into the matcher's tokens.

    Parameters
    ----------
    text : bytes
        The pattern, without ``!``, leading and trailing slash.
    whole_path : bool
        True: the pattern is compared with a path, in which ``*`` stops at ``/`` and ``**`` between slashes does not.

    Returns
    -------
    list of (int, bytes), or None
        None for a pattern that can match nothing (an open bracket, a backslash at the end).
    """
    # git compares the part before the first wildcard as it is and starts the pattern proper behind it: a
    # `**` there counts as one at the beginning.
    begin = _literal_end(text, 0)
    if begin == len(text):
        return [(archive.TOKEN_BYTES, text)]
    out: list[Token] = []
    at = 0
    while at < len(text):
        byte = text[at]
        if byte == 0x5C:  # backslash
            if at + 1 == len(text):
                return None
            _add_literal(text[at + 1 : at + 2], out)
            at += 2
        elif byte == 0x3F:  # ?
            out.append((archive.TOKEN_ANY, b""))
            at += 1
        elif byte == 0x2A:  # *
            at = _tokenize_stars(text, at, begin, whole_path, out)
        elif byte == 0x5B:  # [
            bracket = _read_bracket(text, at)
            if bracket is None:
                return None
            members, at = bracket
            out.append((archive.TOKEN_SET, members))
        else:
            end = _literal_end(text, at)
            _add_literal(text[at:end], out)
            at = end
    return out


def _literal_end(text: bytes, at: int) -> int:
    """Return where the bytes that stand for themselves end."""
    end = len(text)
    for wildcard in _WILDCARDS:
        found = text.find(wildcard, at, end)
        end = found if found >= 0 else end
    return end


def _add_literal(literal: bytes, out: list[Token]) -> None:
    before = out.pop()[1] if out and out[-1][0] == archive.TOKEN_BYTES else b""
    out.append((archive.TOKEN_BYTES, before + literal))


def _tokenize_stars(text: bytes, at: int, begin: int, whole_path: bool, out: list[Token]) -> int:
    """Append the token of a run of stars; return where the pattern goes on."""
    end = at
    while end < len(text) and text[end] == 0x2A:
        end += 1
    rest = text[end:]
    alone = at <= begin or text[at - 1] == 0x2F
    closed = not rest or rest[0] == 0x2F or rest.startswith(b"\\/")
    if whole_path and end - at > 1 and alone and closed:
        if rest.startswith(b"/"):
            out.append((archive.TOKEN_DIRECTORIES, b""))  # `**/` also matches no directory at all
            return end + 1
        out.append((archive.TOKEN_DEEP, b""))
    else:
        out.append((archive.TOKEN_STAR, b""))
    return end


def _read_bracket(text: bytes, at: int) -> tuple[bytes, int] | None:
    """Return the set that opens at `at`, a bit for each byte, and where the pattern goes on; None for a malformed one."""
    at += 1
    negated = text[at : at + 1] in (b"!", b"^")
    if negated:
        at += 1
    members = 0
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
            members |= 1 << previous
        elif byte == 0x2D and previous >= 0 and at + 1 < len(text) and text[at + 1] != 0x5D:
            at += 1
            if text[at] == 0x5C:
                at += 1
                if at >= len(text):
                    return None
            members |= _bits(previous, text[at])  # a range that runs backwards adds nothing to its first byte
            previous = -1
        elif byte == 0x5B and text[at + 1 : at + 2] == b":":
            end = text.find(b"]", at + 2)
            if end < 0:
                return None
            if end > at + 2 and text[end - 1] == 0x3A:
                ranges = _CLASSES.get(text[at + 2 : end - 1])
                if ranges is None:
                    return None
                for low, high in zip(ranges[::2], ranges[1::2], strict=True):
                    members |= _bits(low, high)
                previous = -1
                at = end
            else:
                previous = byte
                members |= 1 << byte
        else:
            previous = byte
            members |= 1 << byte
        at += 1
    if negated:
        members = ~members
    members &= ~(1 << 0x2F) & _ALL  # a set never matches a slash
    return members.to_bytes(32, "little"), at + 1


_ALL = (1 << 256) - 1


def _bits(low: int, high: int) -> int:
    """Return a bit for each byte from one to the other, both included."""
    return (2 << high) - (1 << low) if low <= high else 0
