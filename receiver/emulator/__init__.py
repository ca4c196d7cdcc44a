"""A local Pub/Sub: topics, subscriptions, signed pushes, faults on demand."""
