"""The errors blocksim raises on purpose. Every message says what was expected, what was found, and what to do."""

from __future__ import annotations


class BlocksimError(Exception):
    """Base class of every error that blocksim raises on purpose."""


class ArgumentError(BlocksimError, ValueError):
    """An argument has the wrong type, shape, range or name; raised before any work starts."""


class MissingLibraryError(BlocksimError, ImportError):
    """A backend or a feature needs a library that is not installed; the message names the command that installs it."""


class DeviceError(BlocksimError, RuntimeError):
    """A GPU ran out of memory, or failed; the message says what was being done and what to change."""


class DivergenceError(BlocksimError, ArithmeticError):
    """A training met a loss or a gradient that is not finite; the message says where, and what to change."""


class FileError(BlocksimError, OSError):
    """A file could not be read, or a path could not be written."""


class BlocksimWarning(UserWarning):
    """Something in the input looks wrong, but may be meant."""
