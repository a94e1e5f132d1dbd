"""Errors that are the user's to mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Bad input: the message names the file or key, what was found and what is due."""

    status = 2  # the command's exit status


class Unfinished(UserError):
    """Stopped on purpose with all work saved: running the command again continues."""

    status = 75  # EX_TEMPFAIL of sysexits.h: worth another try
