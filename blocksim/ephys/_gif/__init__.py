"""Fits of generalised integrate-and-fire neurons with escape noise: regression of the potential, Newton on the spikes.

Imports `blocksim.ephys._recordings`, never the other way round.
"""
