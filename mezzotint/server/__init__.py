"""An engine behind the API that clients already speak."""
