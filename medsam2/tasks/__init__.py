"""What one job does, a file each. A task is given built objects and returns what the run is worth."""
