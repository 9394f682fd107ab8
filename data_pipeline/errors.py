"""The one exception that a user's mistake or a broken file ends in."""


class InputError(ValueError):
    """Bad input: a broken file, a photo without a face, a missing folder.

    The message is one line that names the file, says what is wrong with it and
    what to do. The command line prints it and exits with code 2; a batch job
    counts it by `reason` and goes on.

    Attributes:
      reason: short, stable key for tables, e.g. `no_face`, `unreadable`.
    """

    def __init__(self, message: str, reason: str = "invalid"):
        super().__init__(message)
        self.reason = reason
