"""A linear head that is fitted in closed form, on the features of a network that stays as it is."""
