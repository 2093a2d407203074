"""The verbs of the command line, each a function with its options as parameters; `cli.py` gives them their names."""
