"""Readers of file formats, one module each: the contents of a file, unconverted.

A reader has `parts(path)`, the names of the recordings in a file, and `read(path, request)`, the traces of one of them;
units, plausibility and the `Recording` itself are `blocksim.ephys._recordings.formats`'s. The library that a format
needs is imported when such a file is read.
"""
