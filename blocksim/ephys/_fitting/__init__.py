"""Fits: what is fitted, the loss, search, descent and refinement, and what they leave on disk.

Imports `blocksim.ephys._recordings`, never the other way round.
"""
