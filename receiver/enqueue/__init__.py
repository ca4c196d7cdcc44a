"""From a call to a message. The READY row is the outbox, so nothing is lost between the caller's transaction and Pub/Sub.

arguments        a call becomes a row, or a TypeError where it was called
outbox           rows are written; one for each event loop
publications     rows wait their turn, are published and marked
breaker          whether Pub/Sub answers, so whether callers wait for it
transactions     rows in a caller's transaction, published right after its commit
publisher        a row becomes a message, and messages are published
lookup           the result of a call, from the record
loop_thread      an event loop for callers that have none
pubsub_backend   `PubSubBackend`, all of it for one process
"""

from __future__ import annotations

from receiver.enqueue.pubsub_backend import PubSubBackend

__all__ = ["PubSubBackend"]
