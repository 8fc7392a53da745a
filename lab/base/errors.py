"""The one exception for mistakes that a user can mend."""


class UserError(Exception):
    """Bad input. The message is one line: the file or key, what is wrong, what to do.

    Every command prints it without a traceback and exits with code 1.

    Args:
        lines: several mistakes that are told together are a line each.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))
