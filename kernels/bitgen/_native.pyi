"""Types of the native bit generator; the documentation stands in _native.pyx."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flame_fast.kernels.keys import Key, Seed

class StreamBitGenerator(np.random.BitGenerator):
    key: Key
    number: int

    def __init__(self, key_or_seed: Seed = None, number: int = 0) -> None: ...
    @property
    def state(self) -> dict[str, Any]: ...
    @state.setter
    def state(self, value: Mapping[str, Any]) -> None: ...
    def advance(self, delta: int) -> StreamBitGenerator: ...
    def jumped(self, jumps: int = 1) -> StreamBitGenerator: ...
    def spawn(self, n_children: int) -> list[StreamBitGenerator]: ...
