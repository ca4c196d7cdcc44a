"""Types only: what a type checker knows of the parameters and results of `enqueue` and the like.

The parameters are those of the task's function without the context.

A type checker takes the first overload that fits the function. A first parameter of type `Any` or `object` would fit a context too, so
that case comes first and is not checked. With mypy, a task with both a context and an `Any` is not checked either.

Next: `receiver.tasks.task` has the methods.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from receiver.tasks.call import TaskResult
from receiver.tasks.context import TaskContext

Q = ParamSpec("Q")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class TakesArguments(Protocol[T_co]):
    """The type of `Task.entry`: the function's parameters, without the context."""

    @overload
    def __get__(self, task: Callable[Concatenate[_Nobody, Q], Any], owner: object) -> Callable[..., T_co]: ...
    @overload
    def __get__(
        self, task: Callable[Concatenate[TaskContext, Q], Any], owner: object
    ) -> Callable[Q, T_co]: ...
    @overload
    def __get__(self, task: Callable[Q, Any], owner: object) -> Callable[Q, T_co]: ...


class Enqueues(Protocol):
    """The type of `Task.enqueue`: parameters as above, and a result of what the function returns, awaited if it is async."""

    @overload
    def __get__(
        self, task: Callable[Concatenate[_Nobody, Q], Any], owner: object
    ) -> Callable[..., TaskResult]: ...
    @overload
    def __get__(
        self, task: Callable[Concatenate[TaskContext, Q], Coroutine[Any, Any, T]], owner: object
    ) -> Callable[Q, TaskResult[T]]: ...
    @overload
    def __get__(
        self, task: Callable[Concatenate[TaskContext, Q], T], owner: object
    ) -> Callable[Q, TaskResult[T]]: ...
    @overload
    def __get__(
        self, task: Callable[Q, Coroutine[Any, Any, T]], owner: object
    ) -> Callable[Q, TaskResult[T]]: ...
    @overload
    def __get__(self, task: Callable[Q, T], owner: object) -> Callable[Q, TaskResult[T]]: ...


class Aenqueues(Protocol):
    """The type of `Task.aenqueue`: as `Enqueues`, awaited."""

    @overload
    def __get__(
        self, task: Callable[Concatenate[_Nobody, Q], Any], owner: object
    ) -> Callable[..., Coroutine[Any, Any, TaskResult]]: ...
    @overload
    def __get__(
        self, task: Callable[Concatenate[TaskContext, Q], Coroutine[Any, Any, T]], owner: object
    ) -> Callable[Q, Coroutine[Any, Any, TaskResult[T]]]: ...
    @overload
    def __get__(
        self, task: Callable[Concatenate[TaskContext, Q], T], owner: object
    ) -> Callable[Q, Coroutine[Any, Any, TaskResult[T]]]: ...
    @overload
    def __get__(
        self, task: Callable[Q, Coroutine[Any, Any, T]], owner: object
    ) -> Callable[Q, Coroutine[Any, Any, TaskResult[T]]]: ...
    @overload
    def __get__(
        self, task: Callable[Q, T], owner: object
    ) -> Callable[Q, Coroutine[Any, Any, TaskResult[T]]]: ...


class _Nobody:
    """No parameter has this type, so a parameter that accepts it accepts anything."""


def as_entry(method: Callable[..., T_co]) -> TakesArguments[T_co]:
    """The method itself, typed."""
    return cast("TakesArguments[T_co]", method)


def as_enqueue(method: Callable[..., Any]) -> Enqueues:
    """The method itself, typed."""
    return cast("Enqueues", method)


def as_aenqueue(method: Callable[..., Any]) -> Aenqueues:
    """The method itself, typed."""
    return cast("Aenqueues", method)
