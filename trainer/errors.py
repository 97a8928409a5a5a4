"""The exceptions for what a person can mend."""


class UserError(Exception):
    """Something the person can put right: says what is wrong, with which file or field, and what to do.

    The command line prints it in one line, without a traceback, and exits with 2.
    """


class CannotWrite(UserError):
    """The disk is full or a folder is forbidden: going on with the next file makes no sense."""


class MemoryFull(UserError):
    """The device has no memory left; with settings that need less of it the same goes on."""
