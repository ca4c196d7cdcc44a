"""Events, and the log lines that are made of them."""
