"""Errors that are the user's to mend: shown as one line, without a traceback."""


class UserError(Exception):
    """Bad input: the message names the file or key, what was found and what is due."""
