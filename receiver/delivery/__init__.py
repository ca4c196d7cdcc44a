"""The path of a push: `push` reads aloud; token, admission, run and reply each have a room."""
