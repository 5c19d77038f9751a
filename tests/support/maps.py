"""What tests of maps share."""

from __future__ import annotations


def fail_at(bad):
    """Return a function that returns ten times its argument and raises a ValueError for one."""

    def times_ten(number):
        if number == bad:
            raise ValueError(f"no {number}")
        return 10 * number

    return times_ten


def outcomes(iterator, most=1000):
    """Return what comes out of an iterator until it has stopped twice in a row, errors among it."""
    found, stops = [], 0
    while stops < 2:
        try:
            found.append(next(iterator))
            stops = 0
        except StopIteration:
            stops += 1
        except Exception as error:
            found.append(error)
        assert len(found) <= most
    return found
