"""Text that keeps arriving: editors."""
