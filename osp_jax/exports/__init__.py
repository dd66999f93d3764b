"""Exports a model to a file: its weights in their original format, or its whole program."""
