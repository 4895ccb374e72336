"""The one error that a user's input can cause."""

from __future__ import annotations


class InputError(Exception):
    """Wrong use or wrong input. Its message is one line: what, where, what to do.

    The command line prints the message without a traceback and exits with code 2.
    """


class Stopped(Exception):
    """A training ended before its time and can go on: the machine asked it to, or another of its processes ended.

    Its message is one line, as ``InputError``'s; the command line exits with code 75.
    """
