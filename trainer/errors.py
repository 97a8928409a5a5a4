"""UserError and its kinds: the exceptions for what a person can mend."""


class UserError(Exception):
    """Something the person can put right: says what is wrong, with which file or field, and what to do.

    The command line prints it in one line, without a traceback, and exits with 2.
    """


class DiskFull(UserError):
    """Nothing can be written: the disk is full, or its folder may not be written to. The next file would fail, too."""


class DeviceOutOfMemory(UserError):
    """Out of memory on the device, in a sentence; torch.OutOfMemoryError is what torch raises."""
