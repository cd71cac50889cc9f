"""Measure how well systems find what people judged relevant: datasets, runs, measures, comparisons."""
