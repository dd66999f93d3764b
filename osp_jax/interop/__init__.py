"""Networks of Flax Linen and NNX, and plain functions, as a `Model`, and back."""
