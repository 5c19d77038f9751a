"""Count the primes below a limit: a class service does the work, an instance service keeps the score.

The class `PrimeSieve` becomes one object per worker, so its costly set-up runs once in each. The object `Counter()` moves
into a process of its own, where its calls run one at a time in the order they were made. A future of the first is an
argument of the second, and the driver waits for nothing until it wants to.
"""

from flame_fast import Runner

LIMIT = 200_000
STEP = 20_000
PRIMES_BELOW_LIMIT = 17_984


class PrimeSieve:
    """Which numbers below `LIMIT` are prime; each worker that gets a call makes one, without arguments."""

    def __init__(self) -> None:
        self._is_prime = bytearray([0, 0]) + bytearray([1]) * (LIMIT - 2)
        for number in range(2, int(LIMIT**0.5) + 1):
            if self._is_prime[number]:
                multiples = range(number * number, LIMIT, number)
                self._is_prime[multiples.start :: number] = bytes(len(multiples))

    def count(self, low: int, high: int) -> int:
        """Return how many primes p there are with low <= p < high."""
        return sum(self._is_prime[low:high])


class Counter:
    """A running total: plain state, changed by plain methods."""

    def __init__(self) -> None:
        self.total = 0

    def add(self, amount: int) -> int:
        """Add `amount`, and return the total so far."""
        self.total += amount
        return self.total

    def read(self) -> int:
        """Return the total so far."""
        return self.total


def main() -> None:
    """Count by steps, show the total as it grows, and check the result."""
    mine = Counter()
    with Runner("counter") as rr:
        sieve = rr.service(PrimeSieve)
        counter = rr.service(mine)

        counts = [sieve.count(low, low + STEP) for low in range(0, LIMIT, STEP)]
        totals = [counter.add(count) for count in counts]  # each takes a future as its argument
        for total in rr.select(totals):  # each future as it completes
            print(f"primes so far: {total.get():,}")

        found, summed = rr.get((counter.read(), counts))

    assert found == sum(summed) == PRIMES_BELOW_LIMIT
    assert mine.total == 0  # the service works on its own copy
    print(f"There are {found:,} primes below {LIMIT:,}.")


if __name__ == "__main__":
    main()
