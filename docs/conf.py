"""Settings of the documentation site: ``sphinx-build -W docs OUT`` from the root of a checkout, without a network.

Pages are Markdown (MyST). Those of the API are made from docstrings while the site is built: in a page below ``api/``,
the line ``<!-- modules: PACKAGE -->`` stands for every module of a package, ``<!-- names: MODULE -->`` for its
``__all__``. The page ``contribute`` is ``CONTRIBUTING.md``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import pkgutil
import re
import sys
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

project = "alexnet"
author = "the alexnet authors"
try:
    release = installed_version("alexnet")
except PackageNotFoundError:
    release = "from a checkout"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = "alexnet"
html_show_copyright = False
exclude_patterns = ["_build"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_mock_imports = [] if importlib.util.find_spec("triton") else ["triton"]  # it comes with GPU builds of PyTorch
smartquotes = False
suppress_warnings = [
    "misc.highlighting_failure",  # a shell block may hold a placeholder that the lexer does not know
    "ref.python",  # the front door and a module show the same class, such as Run
]

MODULES = re.compile(r"^<!-- modules: (\S+) -->$", re.MULTILINE)
NAMES = re.compile(r"^<!-- names: (\S+) -->$", re.MULTILINE)


def modules_of(package: str) -> list[str]:
    """The modules of a package, the package itself first; of a plain module, only that. ``__main__`` is left out."""
    module = importlib.import_module(package)
    if not hasattr(module, "__path__"):
        return [package]
    inside = pkgutil.walk_packages(module.__path__, f"{package}.")
    return [package, *sorted(found.name for found in inside if not found.name.endswith("__main__"))]


def module_text(name: str) -> str:
    """MyST for one module: a heading, its docstring and its public members."""
    options = ":members:"
    return f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{_indented(options)}\n```\n"


def name_text(module: str, name: str) -> str:
    """MyST for one public name."""
    found = getattr(importlib.import_module(module), name)
    kind = "autoclass" if inspect.isclass(found) else "autofunction"
    options = "\n   :members:\n   :special-members: __call__" if inspect.isclass(found) else ""
    return f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: {module}.{name}{options}\n```\n"


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())


def contribute_text() -> str:
    """``CONTRIBUTING.md`` for the site: links to pages go to the site's, links to source files become plain text."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\[([^\]]+)\]\((?!\w+:|#)(?![^)]*\.md)[^)]+\)", r"\1", text)


def fill_page(app: Sphinx, docname: str, source: list[str]) -> None:
    """Replace the special lines in a page."""
    if docname == "contribute":
        source[0] = contribute_text()
    if docname.startswith("api/"):
        text = MODULES.sub(lambda found: "\n".join(map(module_text, modules_of(found[1]))), source[0])
        source[0] = NAMES.sub(
            lambda found: "\n".join(name_text(found[1], name) for name in importlib.import_module(found[1]).__all__),
            text,
        )


def setup(app: Sphinx) -> None:
    """Connect :func:`fill_page`."""
    app.connect("source-read", fill_page)


autodoc_mock_imports = ["keras", "h5py", "pyarrow"]  # extras: the pages are built without them
