"""Converts networks of Flax Linen, NNX and PyTorch, and plain functions, to a `Model` and back."""
