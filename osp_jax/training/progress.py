"""The progress line of a training run: loss, accuracy, images per second and time left."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class _Meter:
    """Advances the bar; metrics stay on the device until a refresh is due, so that steps do not wait."""

    def __init__(self, progress: Progress, task: Any, batch_size: int):
        self._progress, self._task, self._batch_size = progress, task, batch_size
        self._since, self._steps = time.perf_counter(), 0

    def __call__(self, metrics: dict[str, Any]) -> None:
        steps = metrics["loss"].size
        self._steps += steps
        self._progress.advance(self._task, steps)
        elapsed = time.perf_counter() - self._since
        if elapsed > 0.5:
            loss, accuracy = float(metrics["loss"].mean()), float(metrics["accuracy"].mean())
            rate = self._steps * self._batch_size / elapsed
            text = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {rate:,.0f} images/s"
            self._progress.update(self._task, text=text)
            self._since, self._steps = time.perf_counter(), 0


@contextmanager
def terminal_bar(text: str, done: int, total: int) -> Iterator[tuple[Progress, Any]]:
    """A bar and its task, whose field `text` is shown next to the count; it draws only on a terminal."""
    console = Console(file=sys.stderr)
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress, progress.add_task("", total=total, completed=done, text=text)


@contextmanager
def progress_bar(done: int, total: int, batch_size: int) -> Iterator[_Meter]:
    """A meter to call with the metrics of each step."""
    with terminal_bar("compiling", done, total) as (progress, task):
        yield _Meter(progress, task, batch_size)
