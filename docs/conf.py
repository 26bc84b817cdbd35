"""The documentation site: `sphinx-build -W --keep-going docs docs/_build/html` makes it of the pages in this folder."""

import importlib.util
import sys
from pathlib import Path

import blocksim

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "blocksim"
author = "The blocksim developers"
copyright = "2026, The blocksim developers"
version = release = blocksim.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_click",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "links",
]
# docs/tutorials holds the scripts; docs/gallery is what sphinx-gallery makes of them
exclude_patterns = [
    "_build",
    "node_modules",
    "tutorials",
    "gallery/*.ipynb",
    "gallery/*.py",
    "gallery/*.md5",
    "gallery/*.zip",
]
nitpicky = True
smartquotes = False  # "numba" is a value, and --help an option

# ---------------------------------------------------------------------------------------------------------- Markdown
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4  # links to headings, as on GitHub
myst_update_mathjax = False
mathjax4_config = {"output": {"displayOverflow": "linebreak"}}
# where it is (package.json says how), MathJax is a part of the site; else pages load it from the network
if (Path(__file__).parent / "node_modules" / "mathjax").is_dir():
    html_extra_path = ["node_modules"]
    mathjax_path = "../mathjax/tex-chtml.js"
    mathjax4_config["output"]["fontPath"] = "[mathjax]/../@mathjax/%%FONT%%-font"
    font = "@mathjax/mathjax-newcm-font"
    exclude_patterns += [f"{font}/{name}" for name in ("cjs", "mjs", "svg", "svg.js", "def", "examples", "tex-*")]
    exclude_patterns += ["mathjax/*svg*", "mathjax/*mml*", ".package-lock.json"]

# --------------------------------------------------------------------------------------------------------- reference
autodoc_default_options = {"members": True, "member-order": "bysource"}
# the pages of blocksim.interop can be built without PyTorch and JAX
autodoc_mock_imports = [name for name in ("torch", "jax") if importlib.util.find_spec(name) is None]
autodoc_typehints = "none"  # docstrings say types, with shapes and units
autosummary_generate = False
napoleon_numpy_docstring = True
napoleon_google_docstring = False
# one entry for "bias, beta, theta", as it is written
napoleon_use_param = False
napoleon_custom_sections = [("Attributes", "returns_style"), ("Yields", "returns_style")]
default_role = "py:obj"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True

# --------------------------------------------------------------------------------------------------------- tutorials
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "gallery",
    # every script is run, but that the one that needs PyTorch is only shown where that is missing
    "filename_pattern": r"\.py$" if importlib.util.find_spec("torch") else r"(?<!_pytorch)\.py$",
    "within_subsection_order": "links.in_reading_order",
    "image_scrapers": "pictures.described",
    "abort_on_example_error": True,
    "write_computation_times": False,
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "show_signature": False,
    "remove_config_comments": True,
    "plot_gallery": "True",
}

# -------------------------------------------------------------------------------------------------------------- HTML
html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = f"blocksim {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
