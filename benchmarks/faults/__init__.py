"""Fault injection: kills, flipped bytes and malformed input, each on a real command in its own process."""
