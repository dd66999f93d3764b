"""A model as a file for others: its weights in the format that they came in, or its whole program."""
