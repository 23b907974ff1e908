"""Published datasets, a file each or a few of a kind: where the files are and what their values mean."""
