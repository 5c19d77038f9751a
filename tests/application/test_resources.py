"""Sizes as text, and what a Runner may be asked for: memory and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flame_fast.errors import FlameError, FlameErrorCode
from flame_fast.resources import (
    LEAST_MEMORY,
    MOST_MEMORY,
    MOST_WORKERS,
    ResourceRequirement,
    check_memory,
    check_workers,
    count_gpus,
    parse_size,
)

SUFFIXES = "kmgtp"


class Indexed:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (0, 0),
        (7, 7),
        (Indexed(), 7),
        ("0", 0),
        ("7", 7),
        ("007", 7),
        ("7b", 7),
        ("1k", 1 << 10),
        ("64KiB", 64 << 10),
        ("64 kib", 64 << 10),
        (" 500 MB\n", 500 << 20),
        ("500   mb", 500 << 20),
        ("2g", 2 << 30),
        ("2G", 2 << 30),
        ("2 gi", 2 << 30),
        ("1tb", 1 << 40),
        ("3p", 3 << 50),
        ("1.5 GiB", 3 << 29),
        ("0.1k", 102),
        ("2.50 MB", 5 << 19),
    ],
)
def test_a_size_is_an_integer_or_text_with_a_binary_suffix(value: object, size: int) -> None:
    assert parse_size(value) == size


@pytest.mark.parametrize(
    "value",
    ["", " ", "g", "b", "-1", "+1", "1.5", "1.5 b", "1.g", ".5g", "1.5.5g",
     "1e6", "1_000", "1,000", "0x10", "2x", "2kk", "2 k b", "1 2", "2ib",
     "2i", "2e", "٣", "²", "9" * 5000, -1, True, 1.0, None, b"1k", [1]],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_what_is_no_size_gives_none(value: object) -> None:
    assert parse_size(value) is None


@given(
    number=st.integers(0, 2**64 - 1),
    gap=st.sampled_from(["", " ", "  "]),
    suffix=st.sampled_from(["", "b", *(s + unit for s in SUFFIXES for unit in ("", "i", "b", "ib"))]),
    data=st.data(),
)
def test_every_spelling_of_a_size_is_read(number: int, gap: str, suffix: str, data: st.DataObject) -> None:
    text = "".join(data.draw(st.sampled_from([char, char.upper()])) for char in suffix)
    shift = 10 * (1 + SUFFIXES.index(suffix[0])) if suffix[:1] in tuple(SUFFIXES) else 0
    assert parse_size(f"{number}{gap}{text}") == number << shift


@given(st.text())
def test_any_text_is_a_size_or_none(text: str) -> None:
    size = parse_size(text)
    assert size is None or size >= 0


@pytest.mark.parametrize("text", ["512m", "512 MB", "536870912"])
def test_sizes_are_read_alike_wherever_they_stand(text: str) -> None:
    assert check_memory(text) == 512 << 20
    assert ResourceRequirement.from_string(f"mem={text}").memory == 512 << 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu=x", "cpu in resreq 'cpu=x': expected a whole number, got 'x'"),
        ("cpu=1k", "cpu in resreq 'cpu=1k': expected a whole number, got '1k'"),
        ("mem=1x", "memory in resreq 'mem=1x': expected a whole number, perhaps with k, m, g, t or p, got '1x'"),
        ("disk=1", "resreq 'disk=1': expected cpu=, mem= or gpu=, got 'disk=1'"),
        ("cpu=1,cpu=2", "resreq 'cpu=1,cpu=2': expected cpu once, got it twice"),
        ("cpu=0", "cpu: expected an integer of at least 1, got 0"),
        (3, "resreq: expected text like 'cpu=2,mem=1g', got 3"),
    ],
)
def test_the_wrong_part_of_a_requirement_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ResourceRequirement.from_string(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("memory", [LEAST_MEMORY - 1, MOST_MEMORY + 1, "1k", "many", True, 1.0])
def test_a_memory_out_of_bounds_is_refused(memory: object) -> None:
    with pytest.raises(FlameError, match="memory: expected a number of bytes from 16,777,216 to ") as caught:
        check_memory(memory)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT
    assert f", got {memory!r}; leave it out" in caught.value.message


@pytest.mark.parametrize("workers", [0, -1, MOST_WORKERS + 1, True, 1.0, "2"])
def test_a_number_of_workers_out_of_bounds_is_refused(workers: object) -> None:
    with pytest.raises(FlameError, match="workers: expected an integer from 1 to 1,024, got ") as caught:
        check_workers(workers, 4)
    assert caught.value.code is FlameErrorCode.INVALID_ARGUMENT


@given(thousandths=st.integers(0, 10**9), suffix=st.sampled_from(SUFFIXES))
def test_a_fraction_of_a_suffix_is_exact(thousandths: int, suffix: str) -> None:
    whole, rest = divmod(thousandths, 1000)
    shift = 10 * (1 + SUFFIXES.index(suffix))
    assert parse_size(f"{whole}.{rest:03}{suffix}") == (thousandths << shift) // 1000


@pytest.mark.parametrize(
    ("paths", "count"),
    [
        ([], 0),
        (["dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-caps/nvidia-cap1"], 0),
        (["dev/nvidia0"], 1),
        (["dev/nvidia0", "dev/nvidia3", "dev/nvidia12", "dev/nvidiactl"], 3),
        (["dev/nvidia0", *(f"proc/driver/nvidia/capabilities/gpu0/mig/gi{part}/access" for part in (3, 4, 11))], 3),
        (["dev/nvidia0", "proc/driver/nvidia/capabilities/gpu0/mig/config"], 1),
        (["dev/dxg"], None),
        (["sys/class/kfd/kfd/topology/nodes/0/gpu_id=0", "sys/class/kfd/kfd/topology/nodes/1/gpu_id=4711"], 1),
    ],
)
def test_gpus_are_counted_by_their_devices(tmp_path: Path, paths: list[str], count: int | None) -> None:
    for path in paths:
        name, _, content = path.partition("=")
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    assert count_gpus(str(tmp_path)) == count
