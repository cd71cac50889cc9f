"""What does the index know of its passages? One SQLite file."""
