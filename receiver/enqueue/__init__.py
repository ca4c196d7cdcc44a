"""From a call to a message, with nothing lost between the caller's transaction and Pub/Sub: the READY row is the outbox.

arguments      a call becomes a row, or a TypeError where it was called
outbox         rows are written, published, marked; one for each event loop
transactions   rows in a caller's transaction, published right after its commit
publications   how a row becomes a message, and messages are published
records        what the record says of a call
loops          an event loop for callers that have none
backend        `PubSubBackend`, which is all of it for one process
owed           rows taken, published with no transaction open, and marked
replays        rejected messages, published again
pruning        what is over, removed in steps
sweeper        all of these, every minute
"""

from __future__ import annotations

from receiver.enqueue.pubsub_backend import PubSubBackend

__all__ = ["PubSubBackend"]
