"""Reads a recipe, `--config=FILE.py[:ARG]`, and the fields that flags replace."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipeline.errors import InputError


def parse(values: flags.FlagValues, argv: Sequence[str]) -> ConfigDict:
    """Parses a command line: `--config`, `--config.FIELD=VALUE`, and what else is defined.

    Args:
      values: flags of the program besides; `--config` joins them, and all are set.
      argv: the program's name and its flags.

    Returns:
      The config, locked.

    Raises:
      InputError: `arguments`; unknown flags or fields, values of another type, or a
        file that cannot be read as a config.
    """
    argv = list(argv)
    config_flags.DEFINE_config_file(
        "config", None, "A recipe.", values, lock_config=True, sys_argv=argv
    )
    flags.mark_flag_as_required("config", values)
    try:
        rest = values(argv)[1:]
        if rest:
            raise flags.Error(f"unexpected argument {rest[0]!r}")
        values.config.lock()  # a file that failed to load says so at its first use
        return values.config
    # A config file is code: whatever it raises is an error of the user's file.
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        message = lines[-1] if lines else type(error).__name__
        if isinstance(error, AttributeError | KeyError) and error.args:
            while isinstance(error.args[0], KeyError):  # whose `str` is quoted
                error = error.args[0]
            name, *hint = str(error.args[0]).splitlines()  # "Did you mean …"
            message = ". ".join([f"the config has no field {name}", *hint])
        raise InputError(message, "arguments") from error


def load(spec: str, fields: Sequence[str] = ()) -> ConfigDict:
    """The config of `FILE.py[:ARG]` with `fields`, such as `--config.batch_size=64`.

    Raises:
      InputError: no such file, or as `parse`.
    """
    name = spec.partition(":")[0]
    if not pathlib.Path(name).is_file():
        raise InputError(f"{name}: no such config file; see configs/", "missing")
    try:
        return parse(flags.FlagValues(), ["flax-heads", f"--config={spec}", *fields])
    except InputError as error:
        raise InputError(f"{spec}: {error}", "config") from error
