"""Bytes to values and back: what a message, an id and a failure look like on the wire."""
