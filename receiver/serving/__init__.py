"""The process that serves: ASGI application, instance, server, readiness."""
