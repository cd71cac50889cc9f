"""Text to token embeddings: load, tokenise, encode, score. Knows no index."""
