"""Networks that other people trained: unlearning with the default settings, each class in turn."""
