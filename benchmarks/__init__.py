"""Programs that measure: speed, robustness, soak. Not part of the package."""

import os

# Several processes share a GPU here (`in_turn.py`). By default the first JAX process to
# use it takes three quarters of its memory for good.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
