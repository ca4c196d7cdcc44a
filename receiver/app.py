"""The ASGI application, as servers name it: `uvicorn --factory receiver.app:create_app`. Next: `receiver.serving.app`."""

from __future__ import annotations

from receiver.serving.app import create_app

__all__ = ["create_app"]
