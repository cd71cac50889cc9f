"""Layouts of checkpoints: Stanford ColBERT, PyLate, sentence-transformers, plain encoders."""
