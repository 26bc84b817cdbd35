"""Links that Sphinx does not make by itself: numbers of equations, names in docstrings, tutorials.

Pages and docstrings are written to be read as they are, on GitHub and in a terminal. Here (7) becomes a link to the
equation of that number, `Run.backward` one to its entry in the reference, and `tutorials/long_recordings.py` one to the
page that is made of it.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform
from sphinx.transforms.post_transforms import SphinxPostTransform

MODEL = "model"  # the page on which every equation stands
TAG = re.compile(r"\\tag\{(\d+)\}")
CITED = re.compile(r"(?<![\w)\]\d])\((\d{1,2})\)(?![\w(])")


def in_reading_order(name):
    """Key by which sphinx-gallery sorts the tutorials."""
    from conf import TUTORIALS

    return TUTORIALS.index(name) if name in TUTORIALS else len(TUTORIALS)


def anchor(number):
    """Name of an equation's place in its page."""
    return f"equation-{number}"


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


class Citations(SphinxPostTransform):
    """Make (7) a link to equation 7."""

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs):
        """Replace numbers in running text; those in code, formulas, headings and links stay."""
        if MODEL not in self.env.found_docs:
            return
        tags = {int(number) for number in TAG.findall(self.env.doc2path(MODEL).read_text())}
        for text in list(self.document.findall(nodes.Text)):
            parent = text.parent
            if isinstance(parent, (nodes.literal, nodes.math, nodes.math_block, nodes.literal_block, nodes.title)):
                continue
            if isinstance(parent, nodes.reference) or not CITED.search(text):
                continue
            parts, end = [], 0
            for match in CITED.finditer(text):
                number = int(match[1])
                if number not in tags:
                    continue
                uri = self.app.builder.get_relative_uri(self.env.docname, MODEL) + "#" + anchor(number)
                parts += [
                    nodes.Text(text[end : match.start()]),
                    nodes.reference("", match[0], refuri=uri, internal=True),
                ]
                end = match.end()
            if parts:
                parent.replace(text, [*parts, nodes.Text(text[end:])])


def known_name(app, env, node, contnode):
    """Resolve a name in single backticks: an entry of the reference, or else an argument, which is only text."""
    if node.get("refdomain") != "py" or node.get("reftype") != "obj":
        return None
    target = node["reftarget"]
    if target.startswith("blocksim."):
        return None  # a full name must be there: Sphinx warns
    domain = env.get_domain("py")
    found = domain.find_obj(env, "blocksim", None, target, None, 0)
    if len(found) == 1:
        return domain.resolve_xref(
            env, node["refdoc"], app.builder, "obj", found[0][0], addnodes.pending_xref(), contnode
        )
    return contnode


def link_tutorials(app, docname, source):
    """Lead links to a tutorial's script to its page."""
    source[0] = re.sub(r"\]\((?:\.\./)*tutorials/(\w+)\.py\)", r"](/gallery/\1.rst)", source[0])


def setup(app):
    """Register with Sphinx."""
    app.add_transform(Equations)
    app.add_post_transform(Citations)
    app.connect("missing-reference", known_name)
    app.connect("source-read", link_tutorials)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
