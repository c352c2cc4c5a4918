"""File formats of others: one small module each."""
