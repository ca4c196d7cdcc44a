"""A stand-in for Google's APIs, as strict as Google: what provisioning sends is held against the discovery documents.

`discovery` reads the documents that google-api-python-client carries and refuses whatever they do not describe; `pubsub`,
`scheduler` and `iam` keep the state, with Google's semantics; `server` answers over real HTTP.
"""

from tests.google_fake.server import GoogleFake, running

__all__ = ["GoogleFake", "running"]
