"""Search: trials that Optuna chooses, run as the jobs of a sweep."""
