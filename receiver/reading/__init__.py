"""Reads the record for people: listings, history, groups. It never writes."""
