"""What happens, said once as an event, and rendered by one subscriber (`receiver.telemetry.logs`)."""
