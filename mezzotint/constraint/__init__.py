"""Languages that an answer must belong to, and how a canvas is kept inside one.

JSON schema, regex -> Node -> byte automaton -> token automaton -> allowed tokens, paths over a canvas
"""
