"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Bad input. The message is one line: the file or key, what is wrong, what to do.

    Every command prints it without a traceback and exits with code 1.
    """
