"""What tests play on: receivers, commands, databases, Pub/Sub and endpoints, as real processes and sockets."""
