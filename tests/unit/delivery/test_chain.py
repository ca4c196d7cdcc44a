"""What an exception wraps, read without asking the exception."""

from __future__ import annotations

from receiver.delivery.chain import MOST, chain


def with_slots(cause: BaseException | None = None, context: BaseException | None = None) -> BaseException:
    error = KeyError("outer")
    error.__cause__, error.__context__ = cause, context
    return error


def test_causes_contexts_and_members_of_groups_are_found() -> None:
    inner = ValueError("inner")
    hidden = with_slots(context=inner)
    hidden.__suppress_context__ = True  # `raise ... from None`
    for error in (with_slots(cause=inner), hidden, ExceptionGroup("all", [KeyError("first"), inner])):
        assert list(chain(error))[-1] is inner


def test_an_exception_alone_is_its_chain() -> None:
    error = ValueError()
    assert list(chain(error)) == [error]


def test_a_ring_ends() -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__cause__, second.__cause__ = second, first
    assert list(chain(first)) == [first, second]


def test_a_long_chain_is_cut() -> None:
    last = first = ValueError()
    for _ in range(2 * MOST):
        last.__cause__ = last = ValueError()
    assert len(list(chain(first))) == MOST


def test_an_exception_that_lies_about_its_attributes_is_not_asked() -> None:
    class Liar(Exception):
        def __getattribute__(self, name: str) -> object:
            raise SystemExit(name)

    assert [type(each) for each in chain(Liar())] == [Liar]
