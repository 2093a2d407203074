"""Changing text in place."""
