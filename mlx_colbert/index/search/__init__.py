"""Which passages match best? Candidates, then exact scores."""
