"""Programs that run inside the sandbox. Read as text and started there; never run in the harness."""
