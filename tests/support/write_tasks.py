"""Tasks that write to arrays, and where they find them; workers import this module, so it loads NumPy and no more."""

from __future__ import annotations

import dataclasses
import os
import threading

import numpy as np
from array_writes import SOME, fresh, write

from flame_fast import Runner


@dataclasses.dataclass
class Box:
    array: np.ndarray
    rest: list


class Keeper:
    """Keeps arrays that it was given, and writes to them."""

    def __init__(self):
        self.kept = {}

    def keep(self, name, array):
        self.kept[name] = array

    def write(self, name, position, number):
        self.kept[name][position] = number

    def give(self, name):
        return self.kept[name]

    def drop(self, name):
        del self.kept[name]


def first(array):
    return float(array[0])


def write_in_a_list(way, value):
    return write(way, value[0]["a"])


def write_in_a_box(way, box):
    return write(way, box.array)


def frame_values(frame):
    return frame._mgr.blocks[0].values


def series_values(series):
    return np.asarray(series._mgr.blocks[0].values.view("i8"))


def sparse_values(matrix):
    return matrix.data


def masked_values(array):
    return array.data


def masked_mask(array):
    return array.mask


def model_values(model):
    return model.coef_


def structured_values(array):
    return array["a"]


def arrow_values(buffer):
    return np.frombuffer(buffer)


def whole(array):
    return array


def write_one(array, position, number):
    position %= len(array)
    array[position] = number
    return array


def write_both(left, right, number):
    left[3] = number
    right[4] = number - 0.5
    return float(left.sum()), float(right.sum())


def writing(way, array):
    return lambda: write(way, array)


def list_values(value):
    return value[1][0]


def box_values(box):
    return box.array


def rest_values(box):
    return box.rest[0]


def change_found(value, find):
    array = find(value)
    array.flat[1] = array.flat[array.size - 1]
    return array.copy()


def write_seventh(array):
    array[7] = -1
    return array


def broadcast():
    return np.broadcast_to(fresh(), (3, SOME))


def write_parts(left, right, both):
    left[:] = 1
    right[:] = 2
    both["a"][10] = 3
    return float(left.sum()), float(right.sum()), float(both["a"][:12].sum())


def write_pair(pair):
    pair[0][0] = 5
    return float(pair[1][0])


def overwrite(array):
    array[:] = -1
    return float(array.sum())


def number_all(*arrays):
    for number, array in enumerate(arrays):
        array[0] = number
    return [(float(array[0]), float(array[1])) for array in arrays]


def are_writeable(arrays):
    return [array.flags.writeable for array in arrays]


def spoil():
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and "memfd:flame_fast" in os.readlink(f"/proc/self/fd/{name}"):
            other = os.open("/dev/zero", os.O_RDWR)
            os.dup2(other, int(name))
            os.close(other)
            return True
    return False


def pass_on_while_writing(array):
    stop = threading.Event()

    def keep_writing():
        number = 0.0
        while not stop.is_set():
            number += 1
            array[::512] = number

    thread = threading.Thread(target=keep_writing)
    thread.start()
    try:
        with Runner("inner") as inner:
            refs = [inner.put_object(array) for _ in range(10)]
            seen = [ref.get().copy() for ref in refs]
            unchanged = [bool((ref.get() == before).all()) for ref, before in zip(refs, seen, strict=True)]
    finally:
        stop.set()
        thread.join()
    return unchanged


def write_and_fork(array):
    array[0] = -1
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        array[:] = -2
        os.write(write, b"x")
        os._exit(0 if array[0] == -2 else 1)
    os.read(read, 1)
    os.close(read)
    os.close(write)
    return os.waitpid(pid, 0)[1], float(array[0]), float(array[1]), array


def write_around(array):
    def inner(array):
        array[0] = -2
        return float(array[0] + array[1])

    array[1] = 5
    with Runner("inner") as rr:
        found = rr.service(inner)(array).get()
    return found, float(array[0]), float(array[1])


def is_writeable_inside():
    with Runner("inner", arrays="copy-on-write") as inner:
        return inner.put_object(np.zeros(10)).get().flags.writeable
