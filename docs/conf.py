"""The documentation as a site: ``uv run --group docs sphinx-build -W -n docs docs/_build/html``.

Pages are the Markdown files of this folder. The API reference is made from the docstrings. The build needs no network:
MathJax comes from a package, and links to other projects are off unless ``DFP_DOCS_INTERSPHINX`` is set, because their
inventories are downloaded.
"""

import os
import pydoc
import re
import tomllib
from inspect import Parameter
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.nodes import make_refnode
from sphinx.util.typing import stringify_annotation

ROOT = Path(__file__).resolve().parents[1]

project = "DFP-repro"
author = "The DFP-repro authors"
release = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "README.md"]  # docs/README.md is the index on a code host, index.md that of the site

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "DFP-repro"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# --------------------------------------------------------------------------- API reference

apidoc_modules = [
    {
        "path": "../dfp",
        "destination": "api",
        "exclude_patterns": ["../dfp/__main__.py", "../dfp/commands"],
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members", "undoc-members"},
    }
]
autodoc_member_order = "bysource"
autodoc_default_options = {"ignore-module-all": True}  # a name is listed where it is defined, not where it is exported
autodoc_typehints = "none"  # `shapes` puts back the annotations of arrays
python_maximum_signature_line_length = 88  # a longer signature has one parameter per line
autodoc_mock_imports = ["robosuite", "h5py", "imageio", "tensorboard", "wandb"]  # extras
napoleon_numpy_docstring = False

if os.environ.get("DFP_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
        "snakemake": ("https://snakemake.readthedocs.io/en/stable", None),
    }

# --------------------------------------------------------------------------- links between pages and code


class CodeReferences(SphinxPostTransform):
    """Shows `` `dfp/file.py::Name` `` in a page as ``Name``, with a link to its entry in the API reference.

    Names that the reference does not list stay plain. ``tests/workflow/test_docs.py`` checks that they exist.
    """

    default_priority = 5
    pattern = re.compile(r"(dfp/[\w/]+)\.py(?:::([\w.]+))?")

    def run(self, **_: object) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            if (found := self.pattern.fullmatch(literal.astext())) and not isinstance(literal.parent, nodes.reference):
                module = found[1].removesuffix("/__init__").replace("/", ".")
                text = nodes.literal("", found[2] or literal.astext())
                link = api_link(self.app, self.env, f"{module}.{found[2]}" if found[2] else module, text)
                literal.replace_self(link or literal)


def api_link(app: Sphinx, env: BuildEnvironment, name: str, text: nodes.Node) -> nodes.reference | None:
    """A link to the entry of the API reference with this full name; None if there is no such entry."""
    if (entry := env.domains.python_domain.objects.get(name)) is None:
        return None
    return make_refnode(app.builder, env.current_document.docname, entry.docname, entry.node_id, text, name)


def names_of_the_module(app: Sphinx, env: BuildEnvironment, node: pending_xref, text: nodes.Node) -> nodes.Node | None:
    """Resolve a name in a docstring as its module does (an import, a constant that is not listed), or by its end.

    Returns None, and so a warning, for a name that neither the module nor the reference knows.
    """
    target = node["reftarget"]
    if node["refdomain"] != "py" or not (module := node.get("py:module")):
        return None
    found = pydoc.locate(f"{module}.{target}")
    if found is None and (found := pydoc.locate(target)) is None:
        entries = [name for name in env.domains.python_domain.objects if name.endswith(f".{target}")]
        return api_link(app, env, entries[0], text) if len(entries) == 1 else text if entries else None
    home = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
    return api_link(app, env, home, text) or text


def plain_docstrings(app: Sphinx, what: str, name: str, found: object, options: object, lines: list[str]) -> None:
    """Undo napoleon on properties and fields, of which it reads text before a colon as a type. Show a field's shape."""
    if isinstance(found, property):
        lines[:] = prepare_docstring(found.__doc__ or "")
    elif what == "attribute":
        if lines and lines[0].startswith("Alias for field number"):
            lines.clear()
        if lines and lines[-1].startswith(":type: "):
            lines[:] = [f"{lines[-1].removeprefix(':type: ')}: {lines[0]}", *lines[1:-1]]
        owner, _, field = name.rpartition(".")
        annotation = getattr(pydoc.locate(owner), "__annotations__", {}).get(field)
        if "Array" in str(annotation):
            lines[:0] = [f"``{stringify_annotation(annotation).replace('jaxtyping.', '')}``", ""]


def shapes(
    app: Sphinx, what: str, name: str, found: object, options: object, arguments: str, returned: str
) -> tuple[str, str] | None:
    """Give a signature the annotations of its arrays, which are their shapes. Others would only lengthen it."""
    if what not in ("function", "method") or "Array" not in str(getattr(found, "__annotations__", "")):
        return None

    def shape(annotation: object) -> object:
        return annotation if "Array" in str(annotation) else Parameter.empty

    full = signature(found)
    kept = [each.replace(annotation=shape(each.annotation)) for each in full.parameters.values() if each.name != "self"]
    text = stringify_signature(
        full.replace(parameters=kept, return_annotation=shape(full.return_annotation)), unqualified_typehints=True
    )
    arguments, _, returned = text.partition(" -> ")
    return arguments, returned


def inside_links(app: Sphinx, docname: str, source: list[str]) -> None:
    """Point links that leave this folder at the site's own page, or keep only their text."""
    if docname == "configuration":
        source[0] = (ROOT / "config" / "README.md").read_text()
        source[0] = re.sub(r"\[([^\]]+)\]\((?:[\w.-]+\.yaml|paper|schema)\)", r"\1", source[0])
    text = re.sub(r"\]\((?:\.\./)+config/README\.md", "](/configuration.md", source[0])
    source[0] = re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:README\.md|workflow/|tests/|config/|dfp/)[^)]*\)", r"\1", text)


def setup(app: Sphinx) -> None:
    app.add_post_transform(CodeReferences)
    app.connect("source-read", inside_links)
    app.connect("missing-reference", names_of_the_module)
    app.connect("autodoc-process-docstring", plain_docstrings, priority=900)
    app.connect("autodoc-process-signature", shapes)
