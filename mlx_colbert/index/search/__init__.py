"""Which documents match best? Candidates, then exact scores."""
