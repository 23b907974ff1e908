"""The data doctor: a dataset read from end to end, what is in it and what is wrong with it."""
