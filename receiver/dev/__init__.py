"""`receiver dev`: everything a laptop needs, started together and reloaded on change."""
