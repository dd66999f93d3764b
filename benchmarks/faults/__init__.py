"""Fault injection: kills, flipped bytes and malformed input, each on a real command in a process of its own."""
