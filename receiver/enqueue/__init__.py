"""From a call to a message, with nothing lost between the caller's transaction and Pub/Sub: the READY row is the outbox.

publications   how a row becomes a message, and messages are published
owed           rows taken, published with no transaction open, and marked
replays        rejected messages, published again
pruning        what is over, removed in steps
sweeper        all of these, every minute
"""
