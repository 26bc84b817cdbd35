"""Recordings: the type that holds one, readers of the field's file formats, spike detection, and resampling."""
