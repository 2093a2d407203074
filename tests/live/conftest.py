import importlib.util

collect_ignore_glob = ["test_lsp.py"] if importlib.util.find_spec("pygls") is None else []
