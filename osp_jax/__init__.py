"""Make a trained image classifier forget classes, and show that it did: docs/architecture.md is the map.

Nothing is imported here, so that a command can answer `--help` at once.
"""
