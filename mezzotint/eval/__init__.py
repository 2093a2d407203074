"""Measuring what models write."""
