"""Requests in, text and traces out."""
