"""Predictions become rows: one per case, structure and prompt. Every mean is computed from rows."""
