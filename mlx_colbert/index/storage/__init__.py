"""Where do the vectors lie? Immutable segments and the codec."""
