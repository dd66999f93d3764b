"""Weight files: one module per format, the recognition of formats, and the matching of keys with those of a network."""
