"""Pictures of the tutorials, each with the alternative text that its script gives it: `plt.figure(num="what it shows")`.

matplotlib calls it the figure's label, and shows it as the title of its window; sphinx-gallery by itself would take the
titles of axes.
"""

import re

import matplotlib.pyplot as plt
from sphinx.errors import ExtensionError
from sphinx_gallery.scrapers import matplotlib_scraper


def described(block, block_vars, gallery_conf, **options):
    """What sphinx-gallery puts in a page for the pictures of one block of a script."""
    labels = [plt.figure(number).get_label() for number in plt.get_fignums()]
    if not all(labels):
        raise ExtensionError(f'{block_vars["src_file"]}: expected plt.figure(num="what it shows"); found none')
    texts = iter(labels)
    made = matplotlib_scraper(block, block_vars, gallery_conf, **options)
    return re.sub(r"(?<=:alt: ).*", lambda match: " ".join(next(texts).split()), made)
