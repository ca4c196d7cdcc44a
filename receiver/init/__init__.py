"""`receiver init`: a project that runs, from the files in `templates/`."""
