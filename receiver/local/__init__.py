"""What stands in for the cloud on one machine: a real PostgreSQL from a wheel, and throw-away signing keys.

Only `receiver demo`, `receiver dev` and the test kit come here; the serving path never imports it.
"""
