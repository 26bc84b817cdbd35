"""The backends: one folder each, found through the entry-point group ``blocksim.backends``.

Backends import the core (`blocksim.backend`, `blocksim.surrogates`); the core never imports them, and they never
import each other.
"""
