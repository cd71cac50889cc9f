"""The networks between token ids and hidden states."""
