"""Tasks that write to the standard streams; workers import this module, so it loads next to nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading

from process_events import die


def raw(data: bytes, fd: int = 1) -> None:
    while data:
        data = data[os.write(fd, data) :]


def by_print(stream) -> None:
    print("printed", file=stream)


def by_pieces(stream) -> None:
    print("one,", "two,", sep=" ", end=" ", file=stream)
    stream.write("three\n")


def by_descriptor(stream) -> None:
    raw(b"from C\n", stream.fileno())


def by_subprocess(stream) -> None:
    subprocess.run([sys.executable, "-c", "print('from a child')"], stdout=stream.fileno(), check=True)


def by_shell(stream) -> None:
    os.system(f"echo from a shell >&{stream.fileno()}")


def by_thread(stream) -> None:
    thread = threading.Thread(target=print, args=("from a thread",), kwargs={"file": stream})
    thread.start()
    thread.join()


def without_newline(stream) -> None:
    stream.write("no end")


def unicode_text(stream) -> None:
    print("späte Zeile ✓ 火", file=stream)


def by_writelines(stream) -> None:
    stream.writelines(["a\n", "b\n"])


def write_to(name: str, writer) -> None:
    writer(getattr(sys, name))


def log_something() -> None:
    logging.getLogger("my.module").warning("logged")
    logging.error("logged too")


class Talker:
    def __init__(self) -> None:
        print("made")

    def talk(self) -> None:
        print("talks")


def print_lines(who: str, count: int, in_pieces: bool) -> None:
    for number in range(count):
        if in_pieces:
            for piece in (f"<{who}", f" {number} ", "x" * (number % 97), ">\n"):
                sys.stdout.write(piece)
                sys.stdout.flush()
        else:
            print(f"<{who} {number} {'x' * (number % 97)}>")


def say(number: int) -> int:
    print(f"says {number}")
    return number


def say_and_fail(number: int) -> None:
    print(f"says {number}")
    raise LookupError(number)


def by_bytes(name: str) -> None:
    getattr(sys, name).buffer.write(b"bytes\n")


def by_the_stream_at_the_start(name: str) -> None:
    print("start", file=getattr(sys, f"__{name}__"))


def by_a_fork(name: str) -> None:
    pid = os.fork()
    if pid == 0:
        print("child", file=getattr(sys, name))
        os._exit(0)
    os.waitpid(pid, 0)


def by_half_a_line(name: str) -> None:
    print("half", end="", file=getattr(sys, name))


def by_another_thread(name: str) -> None:
    thread = threading.Thread(target=print, args=("thread",), kwargs={"file": getattr(sys, name)})
    thread.start()
    thread.join()


def by_much(name: str) -> None:
    print("much" * 50_000, file=getattr(sys, name))


def draw_bar(who: str, count: int) -> None:
    for number in range(count):
        sys.stderr.write(f"\r<{who} {number}>")
        sys.stderr.flush()
    sys.stderr.write(f"\r<{who} all>\n")


def say_and_die(number: int) -> None:
    print(f"says {number}")
    os.kill(os.getpid(), 9)


def call(service, number: int) -> int:
    return service(number).get()


def write_text(text: str) -> None:
    sys.stdout.write(text)


def write_letters(text: str) -> None:
    for letter in text:
        sys.stdout.write(letter)
        sys.stdout.flush()


def write_at_gate(gate, name: str, text: str) -> None:
    stream = getattr(sys, name)
    stream.write(text)
    stream.flush()
    gate.wait()


def last_words(how: str) -> None:
    print("last words", flush=True)
    print("and more", end="", flush=True)
    die(how)


def spoil(how: str) -> None:
    if how == "close":
        sys.stdout.close()
    else:
        sys.stdout = None


def leave_behind() -> int:
    return subprocess.Popen(["sleep", "1000"], start_new_session=True).pid
