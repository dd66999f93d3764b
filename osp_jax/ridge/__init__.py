"""A linear head fitted in closed form on the features of a frozen network."""
