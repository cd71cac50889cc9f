"""Answers to questions from passages, with citations, by a language model on this machine."""
