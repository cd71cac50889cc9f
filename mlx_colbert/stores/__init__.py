"""Stores of other engines: `LanceStore` in LanceDB, `QdrantStore` in Qdrant. Each needs an extra."""
