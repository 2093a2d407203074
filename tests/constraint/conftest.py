import importlib.util

LACKING = [name for name in ("hypothesis", "jsonschema") if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["*.py"] if LACKING else []
