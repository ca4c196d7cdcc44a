"""`receiver demo`: real deliveries, played and shown."""
