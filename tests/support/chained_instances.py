"""Instances that ask each other along a chain; imported by workers."""

from __future__ import annotations

from process_events import pass_gate, tell

from flame_fast import Runner


class Node:
    """An instance that passes a question along a chain of instances, waiting for the answer in one way or another."""

    def ask(self, chain: list, way: str, said: str = "", gate: str = "") -> str:
        if gate:
            tell(said, "running")
            pass_gate(gate)
        if not chain:
            return "answer"
        future = chain[0].ask(chain[1:], way)
        if way == "wait":
            future.wait()
        elif way == "exception":
            error = future.exception()
            if error is not None:
                raise error
        elif way == "get of a list":
            with Runner("inner") as rr:
                return rr.get([future])[0]
        elif way == "select":
            with Runner("inner") as rr:
                return next(rr.select([future])).get()
        return future.get()
