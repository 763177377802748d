"""Processes that stay for all stages of a notebook: to start them takes seconds (PyTorch, diffusers), a small stage less.

What a stage gives does not depend on what ran in the same processes before.
"""

import atexit
import functools
import os
import queue
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from lib.ground.cache import atomic_write
from lib.scale.launch import TOLD, Machines, started


def in_crew(work: Path, on: Machines, tell: Callable[[str], None]) -> tuple[int, str]:
    """Run the task in `work / "config.json"` in the processes that stay: exit status and output, as of a launch."""
    return crew_of(on).run(work, tell)


@functools.cache
def crew_of(on: Machines) -> "Crew":
    """The processes that stay, started when they are first needed."""
    return Crew(on)


class Crew:
    """The workers of one launch on this host. They end with this process, or when a task fails: the next starts others."""

    def __init__(self, on: Machines):
        self.on, self.child = on, None
        atexit.register(self.close)

    def run(self, work: Path, tell: Callable[[str], None]) -> tuple[int, str]:
        """Run the task in `work / "config.json"`: exit status and output, as of one launch."""
        if self.child is None or self.child.poll() is not None:
            self._start()
        before, number = self.log.stat().st_size, self.number
        atomic_write(self.folder / f"{number:06d}.task", str(work / "config.json"))
        self.number += 1
        try:
            while not self._done(number) and self.child.poll() is None:
                self._tell(tell)
            if self.child.poll() is not None:
                self.end()
                self.reader.join(60)
            self._tell(tell)
        except BaseException:
            self.end()
            raise
        log = self.log.read_bytes()[before:].decode("utf-8", "replace")
        (work / "log.txt").write_text(log, "utf-8")
        return self.child.poll() or 0, log

    def end(self) -> None:
        """End the workers."""
        if self.child is not None:
            self.child.stdin.close()  # workers end when their standard input does, even if the launcher was killed
            self.child.terminate()
            self.child.wait()

    def close(self) -> None:
        """End the workers and forget what they said."""
        if self.child is not None:
            self.end()
            self.reader.join(60)
            self.kept.cleanup()

    def _start(self) -> None:
        self.close()
        self.kept = tempfile.TemporaryDirectory(prefix="study-crew-")
        self.folder = Path(self.kept.name)
        self.number, self.lines, self.log = 0, queue.SimpleQueue(), self.folder / "log.txt"
        self.log.touch()
        (self.folder / "tasks").mkdir()
        self.child, self.folder = started(self.folder, self.on, self.folder / "tasks"), self.folder / "tasks"
        self.reader = threading.Thread(target=self._read, args=(self.child, self.log, self.lines), daemon=True)
        self.reader.start()

    @staticmethod
    def _read(child, log: Path, lines: queue.SimpleQueue) -> None:
        with open(log, "a", encoding="utf-8") as kept, child.stdout:
            for line in child.stdout:
                kept.write(line)
                kept.flush()
                if line.startswith(TOLD):
                    lines.put(line.removeprefix(TOLD).rstrip())

    def _tell(self, tell: Callable[[str], None]) -> None:
        """Show the lines that have come, or wait a moment for one."""
        try:
            tell(self.lines.get(timeout=0.05))
            while True:
                tell(self.lines.get_nowait())
        except queue.Empty:
            pass

    def _done(self, number: int) -> bool:
        names = [f"{number:06d}.{rank}.done" for rank in range(self.on.processes)]
        return set(names) <= set(os.listdir(self.folder))
