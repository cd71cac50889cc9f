"""Leaves the reasoning of a model out of its answer."""

from __future__ import annotations

from collections.abc import Generator

from mlx_colbert.ask.language_models.language_model import Finish

__all__ = ["without_thinking"]

_BEGIN, _END = "<think>", "</think>"


def without_thinking(
    pieces: Generator[str, None, Finish], *, is_inside: bool = False
) -> Generator[str, None, Finish]:
    """The pieces of an answer, without the reasoning between <think> and </think> at its beginning.

    Args:
        pieces: what the model writes.
        is_inside: whether the prompt has <think> already.
    """
    is_decided, buffer = False, ""
    try:
        while True:
            try:
                buffer += next(pieces)
            except StopIteration as end:
                if not is_inside and buffer:
                    yield buffer
                finish: Finish = end.value
                return finish
            if not is_inside and not is_decided:
                begun = buffer.lstrip()
                if begun.startswith(_BEGIN):
                    is_inside, buffer = True, begun[len(_BEGIN) :]
                elif _BEGIN.startswith(begun):
                    continue  # perhaps its beginning
                else:
                    is_decided = True
            if is_inside:
                _, end_mark, after = buffer.partition(_END)
                if not end_mark:
                    buffer = buffer[-len(_END) :]
                    continue
                is_inside, is_decided, buffer = False, True, after.lstrip()
            if buffer:
                yield buffer
            buffer = ""
    finally:
        pieces.close()
