"""Session names of a service: chosen by its object, or made up."""

from __future__ import annotations

import os
import warnings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

#: Most characters of a session's name.
LONGEST_NAME = 128

#: Characters of a name made up: 32, none easily taken for another.
ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"


class SessionContext:
    """Names of an execution object's session, as the object's attribute `_session_context`.

    Parameters
    ----------
    session_id : str, optional
        The session's id; default `<the runner's name>-<6 characters>`.
    application_name : str, optional
        The application's name in logs; default the runner's name. It changes nothing else: neither the session's id nor the
        application that the runner registers.

    Raises
    ------
    ValueError
        A name that is no string, empty, or longer than 128 characters.
    """

    __slots__ = ("application_name", "session_id")

    def __init__(self, session_id: str | None = None, application_name: str | None = None) -> None:
        for name, value in (("session_id", session_id), ("application_name", application_name)):
            if value is None:
                continue
            if not isinstance(value, str):
                raise ValueError(f"{name}: expected a string, got {value!r}")
            if not value:
                raise ValueError(f"{name}: expected 1 to {LONGEST_NAME} characters, got an empty string")
            if len(value) > LONGEST_NAME:
                raise ValueError(f"{name}: too long ({len(value)} characters, max {LONGEST_NAME})")
        self.session_id: str | None = session_id
        self.application_name: str | None = application_name

    def __repr__(self) -> str:
        return f"SessionContext(session_id={self.session_id!r}, application_name={self.application_name!r})"


def named_session(execution_object: Any) -> str | None:
    """Return the session id that an execution object asks for, None if it leaves it to the runner."""
    context = getattr(execution_object, "_session_context", None)
    return context.session_id if isinstance(context, SessionContext) else None


def session_of(execution_object: Any, application: str) -> tuple[str, str]:
    """Return (session id, application name) of an execution object.

    An attribute `_session_context` of another type is ignored with a warning.
    """
    made_up = f"{application}-{''.join(ALPHABET[byte % 32] for byte in os.urandom(6))}"
    context = getattr(execution_object, "_session_context", None)
    if context is not None and not isinstance(context, SessionContext):
        warnings.warn(
            f"_session_context of {execution_object!r}: expected a SessionContext, got a {type(context).__name__}; ignored",
            stacklevel=4,
        )
    elif context is not None and context.application_name:
        application = context.application_name
    return named_session(execution_object) or made_up, application
