"""Open weights in: facts and name tables. `load` turns a name, a file or a folder into a `Checkpoint`."""
