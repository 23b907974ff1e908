"""How the jobs of a sweep are started, on this machine or on a cluster, and how the head learns that they ended."""
