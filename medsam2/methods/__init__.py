"""How a SAM 2 is trained and asked."""
