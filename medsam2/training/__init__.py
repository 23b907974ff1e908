"""The training loop: it knows neither metrics nor trackers, only a number to make large."""
