"""Engines under measurement: each in a process of its own, driven line by line over a pipe."""
