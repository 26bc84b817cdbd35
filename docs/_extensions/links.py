"""Links that Sphinx does not make by itself: numbers of equations, names in docstrings, tutorials.

Pages and docstrings are written to be read as they are, on GitHub and in a terminal. Here (7) becomes a link to the
equation of that number, `Run.backward` one to its entry in the reference, and `tutorials/long_recordings.py` one to the
page that is made of it.
"""

import pydoc
import re
from functools import cached_property
from pathlib import Path

import click
from docutils import nodes
from sphinx import addnodes
from sphinx.domains.python import PyXRefRole
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.inspect import signature as typed_signature
from sphinx.util.inspect import stringify_signature

from blocksim.cli import main

NUMBERED = ("model", "block", "adjoint")  # the pages on which equations stand
TAG = re.compile(r"\\tag\{(\d+)\}")
CITED = re.compile(r"(?<![\w)\]\d])\((?P<number>\d{1,2})\)(?![\w(])|\bdocs/(?P<page>[\w/]+)\.md\b")

TUTORIALS = (
    "simulate_and_plot.py",
    "neurons_of_the_family.py",
    "gradients_by_hand.py",
    "train_on_events.py",
    "train_within_pytorch.py",
    "fit_a_recording.py",
    "stochastic_cells.py",
    "long_recordings.py",
    "write_a_backend.py",
)
ABSTRACT = ("blocksim.Backend", "blocksim.backend.HostBackend", "blocksim.backend.FusedBackend")


def in_reading_order(name):
    """Key by which sphinx-gallery sorts the tutorials."""
    return TUTORIALS.index(name) if name in TUTORIALS else len(TUTORIALS)


def anchor(number):
    """Name of an equation's place in its page."""
    return f"equation-{number}"


class Figures(SphinxTransform):
    """Lead from each figure to its file: on a small screen that is how to read it."""

    default_priority = 500

    def apply(self, **kwargs):
        """Give each image its own size, which Sphinx makes a link of."""
        for node in self.document.findall(nodes.image):
            there = (Path(self.env.doc2path(self.env.docname)).parent / node["uri"]).is_file()
            if there and not {"scale", "width", "height"} & set(node.attributes):
                node["scale"] = 100


class Equations(SphinxTransform):
    """Give each numbered equation an anchor, and MathJax equations of several lines as they are written."""

    default_priority = 500

    def apply(self, **kwargs):
        """Change the page's displayed equations in place."""
        for node in self.document.findall(nodes.math_block):
            text = node.astext()
            for number in TAG.findall(text):
                node["ids"].append(anchor(number))
            if r"\\" in text and not node.get("nowrap"):
                # Sphinx would wrap it in an environment of its own, which forbids \tag
                node["nowrap"] = node["no-wrap"] = True
                node.children = [nodes.Text(rf"\[{text}\]")]


class Types(SphinxPostTransform):
    """Make names of the reference links where docstrings say the type of an argument or attribute, in italics."""

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs):
        """Replace names such as `Layer`; all other words stay."""
        domain = self.env.get_domain("py")
        for node in list(self.document.findall(nodes.emphasis)):
            if not isinstance(node.parent.parent, (nodes.list_item, nodes.field_body)):
                continue
            parts = []
            for word in re.split(r"(\b[A-Z][A-Za-z]+\b)", node.astext()):
                name = entry(domain, word) if word[:1].isupper() and len(word) > 1 else None
                if name is None:
                    parts.append(nodes.Text(word))
                else:
                    reference = addnodes.pending_xref("", nodes.Text(word), refdomain="py", reftype="obj")
                    reference.update_basic_atts({})
                    reference["reftarget"], reference["refdoc"] = name, self.env.docname
                    parts.append(reference)
            if len(parts) > 1:
                node.children = []
                node.extend(parts)


class ExactNames(SphinxPostTransform):
    """Keep Sphinx from guessing: an argument `steps` is not the property of that name of some class."""

    default_priority = 5

    def run(self, **kwargs):
        """Ask for names as they are written; `known_name` finds the rest."""
        for node in self.document.findall(addnodes.pending_xref):
            if node.get("refdomain") == "py":
                node.attributes.pop("refspecific", None)


class Citations(SphinxPostTransform):
    """Make (7) a link to equation 7, and docs/types.md one to that page."""

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs):
        """Replace them in running text; in code, formulas, headings and links they stay."""
        keep = (nodes.literal, nodes.math, nodes.math_block, nodes.literal_block, nodes.title, nodes.reference)
        for text in list(self.document.findall(nodes.Text)):
            if isinstance(text.parent, (*keep, addnodes.pending_xref)):
                continue
            parts, end = [], 0
            for match in CITED.finditer(text):
                uri = self.target(match)
                if uri is not None:
                    reference = nodes.reference("", "", nodes.Text(match[0]), refuri=uri, internal=True)
                    parts += [nodes.Text(text[end : match.start()]), reference]
                    end = match.end()
            if parts:
                text.parent.replace(text, [*parts, nodes.Text(text[end:])])

    def target(self, match):
        """Where a citation leads, or None if what looks like one is none."""
        page, place = match["page"], ""
        if not page:
            page, place = self.tags.get(int(match["number"])), "#" + anchor(match["number"])
        if page not in self.env.found_docs:
            return None
        return self.app.builder.get_relative_uri(self.env.docname, page) + place

    @cached_property
    def tags(self):
        """The page of each equation, by its number."""
        text = {page: self.env.doc2path(page).read_text() for page in NUMBERED}
        return {int(number): page for page in NUMBERED for number in TAG.findall(text[page])}


class AsWritten(PyXRefRole):
    """Names in single backticks, of which Sphinx would drop a leading dot: `.npz` is no name of an entry."""

    def process_link(self, env, refnode, has_explicit_title, title, target):
        """The text as it is written, and what it leads to."""
        shown, target = super().process_link(env, refnode, has_explicit_title, title, target)
        return (title if title.startswith(".") else shown), target


def entry(domain, target):
    """Full name of the reference's one entry for a name as docstrings have it: `Layer`, `Run.backward`; or None."""
    entries = domain.objects
    for name in (target, f"blocksim.{target}"):
        if name in entries:
            return name
    # a single word may be an argument too, so it is not taken for a method or property of some class
    kinds = None if "." in target else ("class", "exception", "function")
    found = [name for name, what in entries.items() if name.endswith(f".{target}") and (not kinds or what[2] in kinds)]
    return found[0] if len(found) == 1 else None


def known_name(app, env, node, contnode):
    """Resolve a name in single backticks, or in the type of an argument.

    Names of blocksim must be there, and Sphinx warns where they are not; all others are words, arguments and other
    libraries' names, and stay text.
    """
    if node.get("refdomain") != "py" or node.get("reftype") == "mod":
        return None
    domain = env.get_domain("py")
    target = node["reftarget"].partition("(")[0]
    name = entry(domain, target)
    if name is None and "." in target:
        # an attribute is described where its class is
        owner, _, attribute = target.rpartition(".")
        name = entry(domain, owner)
        if name is not None and attribute not in attributes(name):
            return None
    if name is not None:
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", name, addnodes.pending_xref(), contnode)
    return None if target.startswith("blocksim.") else contnode


def attributes(name):
    """Names of a documented class's attributes, fields of dataclasses among them; of a module, all of its names."""
    try:
        thing = pydoc.locate(name)
    except pydoc.ErrorDuringImport:
        return set()
    return {*dir(thing), *getattr(thing, "__annotations__", ())}


def whole_sentence(app, what, name, obj, options, lines):
    """Keep napoleon from reading the words before a colon, in a property's docstring, as its type."""
    if what == "property" and lines and ":" in lines[0]:
        lines[0] = f":{lines[0]}"


def signature_of(app, what, name, obj, options, signature, returned):
    """Leave out constructors that nobody calls, and say the types where docstrings leave them to the signature."""
    if what == "class":
        text = obj.__doc__ or ""
        result = "Attributes\n    ----------" in text and "Parameters\n    ----------" not in text
        return ("", None) if result or name in ABSTRACT else None
    if what == "method" and name.startswith(("blocksim.Backend.", "blocksim.backend.")):
        typed = stringify_signature(typed_signature(obj, bound_method=True), unqualified_typehints=True)
        return re.sub(r": Any(?=[,)])", "", typed), None  # an array of the backend's own kind
    return None


def link_tutorials(app, docname, source):
    """Lead links to a tutorial's script to the page made of it, and those to the scripts' folder to their list.

    Other folders, which GitHub can show, have no page here: what leads to them is text.
    """
    here = Path(app.env.doc2path(docname)).parent

    def link(match):
        target = (here / match[2]).resolve()
        if target.parent.name == "tutorials" and target.suffix == ".py":
            return f"[{match[1]}](/gallery/{target.stem}.rst)"
        if target.name == "tutorials":
            return f"[{match[1]}](/gallery/index.rst)"
        return match[1] if target.is_dir() else match[0]

    source[0] = re.sub(r"(?<!!)\[([^]\n]+)\]\(([\w./-]+)\)", link, source[0])


def show_defaults(command):
    """Have sphinx-click show the defaults that `--help` shows: none of flags, and none where there is none."""
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.show_default is None and not parameter.is_flag:
            # where there is none, click has an object of its own that says so
            parameter.show_default = isinstance(parameter.default, (str, int, float, tuple)) and parameter.default != ""
    for inner in getattr(command, "commands", {}).values():
        show_defaults(inner)


def setup(app):
    """Register with Sphinx."""
    app.add_transform(Figures)
    app.add_transform(Equations)
    show_defaults(main)
    app.add_post_transform(Types)
    app.add_post_transform(ExactNames)
    app.add_post_transform(Citations)
    app.add_role_to_domain("py", "obj", AsWritten(), override=True)
    app.connect("missing-reference", known_name)
    app.connect("autodoc-process-signature", signature_of)
    app.connect("autodoc-process-docstring", whole_sentence, priority=400)  # before napoleon's 500
    app.connect("source-read", link_tutorials)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
