"""Whose is which word of a command line: ours, or the program's."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["split_program"]


def split_program(
    arguments: Sequence[str], *, valued: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Part our options from the program: a file, or ``-m``, and all that follows.

    Parameters
    ----------
    arguments : sequence of str
        A command line.
    valued : sequence of str
        Options of ours whose value is the next word.
    """
    index = 0
    while index < len(arguments):
        word = arguments[index]
        if word == "--":
            return list(arguments[:index]), list(arguments[index + 1 :])
        if word.startswith("-m") or not word.startswith("-"):
            break
        index += 2 if word in valued else 1
    own, program = list(arguments[:index]), list(arguments[index:])
    if program and program[0].startswith("-m"):
        module = [program[0][2:], *program[1:]] if len(program[0]) > 2 else program[1:]
        program = ["-m", *module] if module else []
    return own, program
