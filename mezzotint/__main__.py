"""`python -m mezzotint` is the command line."""

from mezzotint.cli import main

main()
