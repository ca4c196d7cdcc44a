"""A real PostgreSQL from a wheel: its files, its life, its guard."""
