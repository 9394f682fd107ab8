"""How Sphinx makes the documentation: `make docs`. A warning is an error there."""

import importlib.metadata
import re

project = "flax-heads"
author = "the flax-heads authors"
version = release = importlib.metadata.version("flax-heads")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"flax-heads {version}"
myst_heading_anchors = 3  # links to headings, as on GitHub
default_role = "code"  # docstrings put code between single backticks
suppress_warnings = ["ref.python"]  # attributes of several classes share a name

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints_format = "short"
napoleon_use_ivar = True


def _from_plain_text(app, what, name, obj, options, lines):
    """Our docstrings are plain text: what reStructuredText would take for markup is not.

    Module docstrings hold commands, indented by four spaces, and Markdown tables, which
    are shown as they stand.
    """
    was_literal = False
    for i, line in enumerate(lines):
        literal = what == "module" and line.startswith(("    ", "| ", "|-"))
        if not literal and line.strip():
            parts = re.split(r"(`[^`]*`)", line)  # code at the odd places
            parts[::2] = [re.sub(r"([*|]|_\b)", r"\\\1", part) for part in parts[::2]]
            line = "".join(parts)
        elif literal and not was_literal:
            line = f"::\n\n    {line}"
        elif literal:
            line = f"    {line}"
        was_literal = literal or (was_literal and not line.strip())
        lines[i] = line
    lines[:] = "\n".join(lines).split("\n")


def setup(app):
    app.connect("autodoc-process-docstring", _from_plain_text, priority=400)
