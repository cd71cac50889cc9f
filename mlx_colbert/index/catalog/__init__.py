"""What does the index know of its documents? One SQLite file."""
