"""Estimate pi on all cores: each batch of random points is one call of `estimate_batch` in a worker process.

Run it as `python examples/pi/main.py` from the clone's root, or as `python main.py` from here; with `--baseline numpy` it
runs the article's NumPy function in place of the kernel, and with `--picture pi.png` it draws points, and how the estimate
converges. The environment variables PI_NUM_BATCHES and PI_SAMPLES_PER_BATCH set how much work there is.
"""

import argparse
import math
import os
import sys
import time

from pi import estimate_batch, estimate_batch_numpy

from flame_fast import Runner

RULE = "=" * 60


def positive_setting(name: str, default: int) -> int:
    """Return the environment variable `name` as a positive integer; anything else ends the program with status 2."""
    text = os.environ.get(name, str(default))
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        print(f"{name}: expected a positive integer, got {text!r}", file=sys.stderr)
        raise SystemExit(2)
    return value


def picture_file(text: str) -> str:
    """Parse the name of a file to draw a picture to: refuse before the work begins what could not be drawn after it."""
    try:
        import picture
    except ImportError as error:
        raise argparse.ArgumentTypeError(
            f"expected matplotlib to draw {text!r} with, got {error}; install it with `pip install matplotlib`"
        ) from None
    if os.path.splitext(text)[1].lower() not in picture.ENDINGS:
        raise argparse.ArgumentTypeError(f"expected a file name that ends with {', '.join(picture.ENDINGS)}, got {text!r}")
    if not os.access(os.path.dirname(text) or ".", os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(f"expected a file in a directory that can be written to, got {text!r}")
    return text


def main() -> None:
    """Read the settings, run the batches, and print the estimate beside the true value."""
    parser = argparse.ArgumentParser(description="Estimate pi on all cores; see the top of this file.")
    parser.add_argument("--baseline", choices=["numpy"], help="run the article's NumPy function in place of the kernel")
    parser.add_argument(
        "--picture", type=picture_file, metavar="FILE", help="draw points and convergence (.pdf, .png, .svg)"
    )
    options = parser.parse_args()
    function = estimate_batch_numpy if options.baseline else estimate_batch
    num_batches = positive_setting("PI_NUM_BATCHES", 10)
    samples_per_batch = positive_setting("PI_SAMPLES_PER_BATCH", 1_000_000)
    total_samples = num_batches * samples_per_batch

    print(RULE)
    print("Monte Carlo Estimation of PI using Flame Runner")
    print(RULE)
    print("\nConfiguration:")
    print(f"  Batches: {num_batches}")
    print(f"  Samples per batch: {samples_per_batch:,}")
    print(f"  Total samples: {total_samples:,}")
    print("\nRunning distributed Monte Carlo simulation...")

    with Runner("pi-estimation") as rr:
        estimator = rr.service(function)
        rr.get(estimator(0))  # the clock starts once a worker has loaded the function
        start = time.perf_counter()
        results = [estimator(samples_per_batch) for _ in range(num_batches)]
        insides = rr.get(results)
        seconds = time.perf_counter() - start

    estimate = 4.0 * sum(insides) / total_samples
    error = abs(estimate - math.pi)

    print("\nResults:")
    print(f"  Estimated PI: {estimate:.10f}")
    print(f"  Actual PI:    {math.pi:.10f}")
    print(f"  Error:        {error:.10f} ({error / math.pi:.6%})")
    print(f"  Speed:        {total_samples / seconds:,.0f} samples a second")
    print(RULE)

    if options.picture:
        from picture import draw

        draw(options.picture, insides, samples_per_batch)


if __name__ == "__main__":
    main()
