"""Indexes of other engines, read without their libraries."""
