"""A model and an index together: text in, hits out."""
