"""Hook of frozen programs (PyInstaller, Nuitka): the program, started once more, becomes the supervisor of its workers."""

from __future__ import annotations

import sys

from flame_fast.engine import program


def freeze_support() -> None:
    """Become the supervisor of workers, if a Runner has started this program for that; else do nothing.

    A program that is frozen into an executable calls it as its first statement. In other programs it does nothing.

    Notes
    -----
    The process that becomes the supervisor ends here: this returns in none but the program that the user has started.

    Examples
    --------
    >>> import flame_fast
    >>> flame_fast.freeze_support()
    """
    program.note_hook()
    if sys.argv[1:2] != [program.ARGUMENT]:
        return
    from flame_fast.engine import zygote

    options = sys.argv[2]
    del sys.argv[1:]
    zygote.main(options)
