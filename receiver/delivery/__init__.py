"""Handles one push. Start at `push.py`, the whole path; `verifier`, `admission`, `runner`, `run` and `replies` are its steps."""
