"""Reads the record for people: listings, one execution with its history, groups. Read only."""
