"""What a person sees while long work runs: a bar of stages on stderr, or one line a stage in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


@dataclass
class Stages:
    """A known number of stages of one piece of work. ``console`` None: silent."""

    num_stages: int = 0
    console: Console | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    _progress: Progress | None = None

    @contextmanager
    def shown(self) -> Iterator[Stages]:
        """Show the bar while the work runs, where stderr is a terminal."""
        if self.console is None or not self.console.is_terminal:
            yield self
            return
        columns = (
            SpinnerColumn(),
            BarColumn(24),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            self._progress = progress
            progress.add_task("", total=self.num_stages)
            try:
                yield self
            finally:
                self._progress = None

    def describe(self, text: str) -> None:
        """Say what the stage that is under way is doing."""
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], description=text)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """One stage, timed. Its line is printed when it ends."""
        started = time.perf_counter()
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], description=name)
        yield
        self.seconds[name] = time.perf_counter() - started
        if self._progress is not None:
            self._progress.advance(self._progress.task_ids[0])
        if self.console is not None:
            self.console.print(f"[green]done[/] {name} [dim]{self.seconds[name]:.1f} s[/]")
