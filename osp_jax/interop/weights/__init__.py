"""Weight files: one file a format, how a file is recognised, and how its keys are matched with those of a network."""
