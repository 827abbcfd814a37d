"""The error tree, by what the caller can do about it."""

from __future__ import annotations


class CitysenseError(Exception):
    """Base of all errors of ours; the text is a sentence for a person."""


class SetupError(CitysenseError):
    """Something around the product must be put right before it can start: a port, a folder, a setting.

    The command line prints the text and leaves with exit code 1.
    """


class WrongUse(SetupError):
    """The command line itself is wrong; exit code 2."""


class StorageError(CitysenseError):
    """A database file could not be opened, read or written."""


class StorageFull(StorageError):
    """No space is left, not even in the reserve. Tell the sender to keep what it has."""


class StorageDamaged(StorageError):
    """The bytes of a database file are not what was written."""


class StorageClosed(StorageError):
    """The file's writer has stopped; the process is going down."""


class Overloaded(StorageError):
    """The bounded queue in front of a writer is full; try again shortly."""


class UpstreamError(CitysenseError):
    """Another process or server did not answer as expected; trying again later may help."""


class Refused(CitysenseError):
    """Another process or server understood and said no; trying the same again will not help."""
