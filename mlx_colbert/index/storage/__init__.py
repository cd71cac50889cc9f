"""Where are the vectors? In immutable segments, and in the codec."""
