"""A real kernel of Jupyter's, to run cells in as a notebook does.

A program of its own talks to the kernel: what that opens for its life, as sockets and an event loop, ends with it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass

#: Seconds for a kernel's start, and for a cell.
PATIENCE_S = 60.0


@dataclass
class Shown:
    """What a cell has shown: what it printed, and the traceback of its error, without colours."""

    printed: str = ""
    traceback: str = ""


def run_cells(cells):
    """Run cells one after the other in a kernel of their own; return what each has shown."""
    done = subprocess.run(
        [sys.executable, __file__], input=json.dumps(list(cells)), capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr
    return [Shown(**each) for each in json.loads(done.stdout.splitlines()[-1])]


def plain(text):
    """Return a text without colours."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def _shown_by_kernel(cells):
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=PATIENCE_S)
    try:
        return [_run(client, cell) for cell in cells]
    finally:
        client.stop_channels()
        manager.shutdown_kernel()


def _run(client, cell):
    shown = Shown()
    asked = client.execute(cell)
    while True:
        message = client.get_iopub_msg(timeout=PATIENCE_S)
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "stream":
            shown.printed += content["text"]
        elif kind == "error":
            shown.traceback = plain("\n".join(content["traceback"]))
        elif kind == "status" and content["execution_state"] == "idle":
            return vars(shown)


if __name__ == "__main__":
    print(json.dumps(_shown_by_kernel(json.load(sys.stdin))))
