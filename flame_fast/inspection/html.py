"""HTML for notebooks: small tables of what runners, services, futures and statistics are. Every text is escaped."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

#: Pixels of a bar.
BAR_WIDTH = 160

#: Powers of 1024, from the first one on.
UNITS = ("KiB", "MiB", "GiB", "TiB")


class Bar:
    """A part of a whole, shown as a bar beside a text.

    Parameters
    ----------
    part, whole : int
        Of the same unit. A whole of 0 has no bar.
    text : str
    """

    def __init__(self, part: int, whole: int, text: str) -> None:
        self.text: str = text
        self.share: float | None = min(1.0, part / whole) if whole > 0 else None

    def html(self) -> str:
        if self.share is None:
            return _escaped(self.text)
        frame = f"display:inline-block;width:{BAR_WIDTH}px;height:0.8em;margin-right:0.6em;border:1px solid currentColor"
        filled = f"width:{100 * self.share:.1f}%;height:100%;background:currentColor"
        return f'<div style="{frame}"><div style="{filled}"></div></div>{_escaped(self.text)}'


def _escaped(text: str) -> str:
    from html import escape  # late: its table of entities takes a tenth of what a Runner imports

    return escape(text)


def table(title: str, rows: Mapping[str, object]) -> str:
    """Return a table of two columns: names, and texts or bars."""
    lines = [
        f'<tr><td style="text-align:left">{_escaped(name)}</td><td style="text-align:left">{_cell(value)}</td></tr>'
        for name, value in rows.items()
    ]
    return f"<table><thead><tr><th colspan='2'>{_escaped(title)}</th></tr></thead><tbody>{''.join(lines)}</tbody></table>"


def _cell(value: object) -> str:
    return value.html() if isinstance(value, Bar) else _escaped(str(value))


def nbytes_text(nbytes: int) -> str:
    """Return a number of bytes in the binary unit that fits it."""
    if nbytes < 1024:
        return f"{nbytes:,} bytes"
    power = min((nbytes.bit_length() - 1) // 10, len(UNITS))
    return f"{nbytes / (1 << 10 * power):,.1f} {UNITS[power - 1]}"
