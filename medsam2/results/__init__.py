"""From stored runs to tables."""
