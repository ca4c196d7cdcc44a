"""The pictures of the documentation: `python -m scripts.pictures` draws them all into docs/pictures."""
