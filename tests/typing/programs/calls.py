"""What type checkers know of services, futures and their values. Each remark after a line is what they must say of it."""

from __future__ import annotations

from typing import Any, reveal_type

from flame_fast import ObjectFuture, ObjectRef, Runner, RunnerService, app


def square(x: int) -> int:
    return x * x


def label(number: int, scale: float = 2.0, *, name: str = "") -> str:
    return name


def total(first: int, *others: int) -> bytes:
    return b""


def four(a: int, b: str, c: float, d: bytes) -> bool:
    return True


async def fetch(url: str) -> bytes:
    return b""


class Model:
    def step(self, x: int) -> int:
        return x


class Doubler:
    def __call__(self, x: int) -> float:
        return 2 * x


def services(rr: Runner) -> None:
    reveal_type(rr.service(square))  # RunnerService[[x: int], int]
    reveal_type(rr.service(square, warmup=1)(3))  # ObjectFuture[int]
    reveal_type(rr.service(fetch)("a"))  # ObjectFuture[bytes]
    reveal_type(rr.service(Doubler())(3))  # ObjectFuture[float]
    reveal_type(rr.service(Model).step(3))  # ObjectFuture[Any]
    reveal_type(rr.service(Model()).step(3))  # ObjectFuture[Any]
    reveal_type(rr.service(square).options(timeout=3)(2))  # ObjectFuture[int]
    rr.service(Model)(3)  # error
    rr.service(square, warmup="yes")  # error


def calls(rr: Runner) -> None:
    squares = rr.service(square)
    labels = rr.service(label)
    reveal_type(squares(3))  # ObjectFuture[int]
    reveal_type(squares(x=3))  # ObjectFuture[int]
    reveal_type(labels(1, 2.0, name="a"))  # ObjectFuture[str]
    reveal_type(rr.service(total)(1, 2, 3))  # ObjectFuture[bytes]
    squares("three")  # error
    squares(1, 2)  # error
    squares(y=1)  # error
    labels(1, name=2)  # error


def futures_as_arguments(rr: Runner) -> None:
    squares = rr.service(square)
    labels = rr.service(label)
    stored = rr.put_object(3)
    reveal_type(stored)  # ObjectRef[int]
    reveal_type(squares(squares(3)))  # ObjectFuture[int]
    reveal_type(squares(stored))  # ObjectFuture[int]
    reveal_type(squares(x=squares(3)))  # ObjectFuture[int]
    reveal_type(labels(squares(1), 2.0))  # ObjectFuture[str]
    reveal_type(labels(1, squares(2), name="a"))  # ObjectFuture[str]
    reveal_type(labels(squares(1), squares(2)))  # ObjectFuture[str]
    reveal_type(rr.service(total)(1, squares(2), squares(3)))  # ObjectFuture[bytes]
    reveal_type(rr.service(four)(1, "b", 2.0, rr.put_object(b"")))  # ObjectFuture[bool]
    reveal_type(rr.service(total)(1, squares(2), 3))  # ObjectFuture[bytes]


def values(rr: Runner) -> None:
    squares = rr.service(square)
    labels = rr.service(label)
    reveal_type(squares(3).get())  # int
    reveal_type(squares(3).result(1.0))  # int
    reveal_type(rr.get(squares(3)))  # int
    reveal_type(rr.get([squares(3), squares(4)]))  # list[int]
    reveal_type(rr.get((squares(3), labels(4))))  # tuple[int, str]
    reveal_type(rr.get({"a": squares(3)}))  # dict[str, int]
    reveal_type(rr.get(squares(i) for i in range(3)))  # list[int]
    reveal_type(rr.get([squares(3)], return_exceptions=True))  # Any
    reveal_type(rr.ref(squares(3)))  # ObjectRef[int]
    reveal_type(rr.wait([squares(3)], num_returns=1))  # tuple[list[ObjectFuture[int]], list[ObjectFuture[int]]]
    for future in rr.select([squares(3)]):
        reveal_type(future)  # ObjectFuture[int]
    rr.get([squares(3)], timeout="soon")  # error


def maps(rr: Runner) -> None:
    squares = rr.service(square)
    reveal_type(list(squares.map([1, 2])))  # list[int]
    reveal_type(list(squares.map([squares(1)])))  # list[int]
    reveal_type(list(rr.service(label).map([1], [2.0])))  # list[str]
    reveal_type(list(rr.service(label).starmap([(1, 2.0)])))  # list[str]
    reveal_type(list(squares.map([1], return_exceptions=True)))  # list[int | BaseException]
    reveal_type(rr.service(Model).step.map([1]))  # Results[Any]
    squares.map([1], chunksize="many")  # error
    squares.map(3)  # error


async def awaited(rr: Runner) -> None:
    squares = rr.service(square)
    reveal_type(await squares(3))  # int
    reveal_type(await rr.gather(squares(3), squares(4)))  # list[int]
    reveal_type(await rr.aget({"a": squares(3)}))  # dict[str, int]
    async for future in rr.select([squares(3)]):
        reveal_type(future)  # ObjectFuture[int]
    async for value in squares.map([1, 2]):
        reveal_type(value)  # int


def annotated(service: RunnerService[[int], str], future: ObjectFuture[str], ref: ObjectRef[str]) -> Any:
    reveal_type(service(3))  # ObjectFuture[str]
    reveal_type(future.ref())  # ObjectRef[str]
    reveal_type(ref.get())  # str
    return future


def other_ways(rr: Runner) -> None:
    future = rr.service(square)(3)
    reveal_type(future.as_concurrent().result())  # int
    future.add_done_callback(lambda done: print(done.get() + 1))


@app.service
def cube(x: int) -> int:
    return x**3


@app.service(warmup=1)
async def fetched(url: str) -> bytes:
    return b""


def by_app() -> None:
    reveal_type(fetched.remote("a").get())  # bytes
    reveal_type(cube.__name__)  # str
    reveal_type(cube(3))  # int
    reveal_type(cube.remote(3))  # ObjectFuture[int]
    reveal_type(cube.remote(cube.remote(3)).get())  # int
    cube.remote("three")  # error
