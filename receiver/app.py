"""The ASGI application, as servers name it: `receiver.app:create_app`."""

from receiver.serving.app import create_app

__all__ = ["create_app"]
