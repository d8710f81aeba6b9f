"""Tasks whose calls of a log joint are taken together, one block of points for all of them.

Where each call is a round trip to other processes, or a launch of a device, a call of a hundred points costs
as much as one of a single point. There the searches for modes, the paths and the runners of a race go on in
step: each waits until all of them have asked for values, and one call answers.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ..common.values import Array
from .model import Model

_T = TypeVar("_T")

#: Takes points (S, D), and whether gradients are wanted, to (values, gradients or None).
Evaluate = Callable[[Array, bool], tuple[Array, Array | None]]

#: The task that a thread works on.
_current = threading.local()


def together(model: Model, tasks: Sequence[Callable[[], _T]]) -> Iterator[_T]:
    """The results of the tasks, in their order, taken together where calls of the model are expensive.

    With other models the tasks run one after another, when their results are asked for. Of several exceptions
    that of the first task is raised. A task may have tasks of its own.
    """
    if not model._calls_are_expensive or len(tasks) < 2:
        return (task() for task in tasks)
    model._raise_pending()  # in this thread: the tasks have threads of their own
    return iter(_in_step([_Task(task) for task in tasks]))


def answered(evaluate: Evaluate, points: Array, slopes: bool) -> tuple[Array, Array | None]:
    """``evaluate(points, slopes)``, in one call with what the other tasks ask for."""
    task: _Task | None = getattr(_current, "task", None)
    return evaluate(points, slopes) if task is None else task.ask(evaluate, points, slopes)


class _Task:
    """A function in a thread of its own, which runs only while the one who resumes it waits for it.

    So nothing runs at the same time, and the log joint is called from the thread that called fastvi.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work, self.ended = work, False
        self.result: Any = None
        self.error: BaseException | None = None
        self.request: tuple[Evaluate, Array, bool] | None = None
        self.answer: Any = None
        self._go, self._back = threading.Lock(), threading.Lock()
        self._go.acquire()
        self._back.acquire()
        run = contextvars.copy_context().run
        self._thread = threading.Thread(target=run, args=(self._run,), daemon=True)

    def _run(self) -> None:
        _current.task = self
        try:
            self._go.acquire()
            self.result = self.work()
        except BaseException as error:
            self.error = error
        self.ended = True
        self._back.release()

    def ask(self, evaluate: Evaluate, points: Array, slopes: bool) -> tuple[Array, Array | None]:
        """In the task: what it is answered, or the exception that the answer is."""
        self.request = evaluate, points, slopes
        self._back.release()
        self._go.acquire()
        if isinstance(self.answer, BaseException):
            raise self.answer
        found: tuple[Array, Array | None] = self.answer
        return found

    def resume(self) -> BaseException | None:
        """Let it run until it asks or ends; an exception that came meanwhile, such as that of Ctrl-C."""
        if self.request is None:
            self._thread.start()
        self._go.release()
        interrupt = None
        while True:
            try:
                self._back.acquire()
            except BaseException as error:
                interrupt = error
            else:
                return interrupt


def _in_step(tasks: list[_Task]) -> list[Any]:
    """Run tasks to their ends."""
    failure: BaseException | None = None
    waiting = tasks
    while waiting:
        for task in waiting:
            if failure is not None:
                task.answer = failure
            failure = task.resume() or failure
        waiting = [task for task in waiting if not task.ended]
        if waiting and failure is None:
            try:
                _answer(waiting)
            except BaseException as error:
                failure = error
    if failure is not None:
        raise failure
    for task in tasks:
        if task.error is not None:
            raise task.error
    return [task.result for task in tasks]


def _answer(waiting: list[_Task]) -> None:
    """Answer what tasks have asked for, in one call."""
    requests = [task.request for task in waiting if task.request is not None]
    evaluate, slopes = requests[0][0], any(wanted for _, _, wanted in requests)
    points = [block for _, block, _ in requests]
    # This may itself be a task.
    values, gradients = answered(evaluate, np.concatenate(points), slopes)
    low = 0
    for task, block in zip(waiting, points, strict=True):
        rows = slice(low, low + len(block))
        task.answer = values[rows], None if gradients is None else gradients[rows]
        low += len(block)
