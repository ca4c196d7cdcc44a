"""Pins the images that a Dockerfile builds on by digest: `FROM name:tag@sha256:…`. `make lock-image` calls it.

A tag is whatever its owner says today. The digests are asked of the images' registries by the protocol that all of them speak
(OCI distribution); a digest that is there is replaced by today's. Without an answer nothing is written, and one line says so.
An image that a build argument names is the caller's: `examples/plugin` builds on the receiver's own image.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

import httpx

ROOT: Final = Path(__file__).resolve().parent.parent
DOCKERFILES: Final = (ROOT / "Dockerfile", ROOT / "examples" / "plugin" / "Dockerfile")
HUB: Final = "https://registry-1.docker.io"
INDEX: Final = (
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json"
)
"""The digest of the index, which has an image for each architecture."""

FROM: Final = re.compile(
    r"^FROM (?:--\S+ )*(?P<image>[^\s$@]+)(?P<digest>@sha256:[0-9a-f]{64})?(?= |$)", re.MULTILINE
)


class NoDigest(Exception):
    """The registry gave none."""


def bases(text: str) -> list[re.Match[str]]:
    """The FROM lines of a Dockerfile that name an image: no stage of its own, and no build argument."""
    stages = set(re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE | re.IGNORECASE))
    return [found for found in FROM.finditer(text) if found["image"] not in stages]


def unpinned(text: str) -> list[str]:
    """The images that only a tag names."""
    return [found["image"] for found in bases(text) if found["digest"] is None]


def digest(image: str, hub: str = HUB) -> str:
    """The digest of an image's tag today.

    Raises:
        NoDigest: one line: no answer, or not the expected one.
    """
    first, slash, rest = image.partition("/")
    elsewhere = bool(slash) and ("." in first or ":" in first)
    registry, name = (
        (f"https://{first}", rest) if elsewhere else (hub, image if slash else f"library/{image}")
    )
    name, _, tag = name.partition(":")
    url = f"{registry}/v2/{name}/manifests/{tag or 'latest'}"
    try:
        with httpx.Client(timeout=20, follow_redirects=True) as client:
            answer = client.head(url, headers={"accept": INDEX})
            if answer.status_code == httpx.codes.UNAUTHORIZED:
                wanted = dict(re.findall(r'(\w+)="([^"]*)"', answer.headers.get("www-authenticate", "")))
                told = client.get(wanted.pop("realm", ""), params=wanted).raise_for_status().json()
                token = told.get("token") or told.get("access_token")
                answer = client.head(url, headers={"accept": INDEX, "authorization": f"Bearer {token}"})
            found: str = answer.raise_for_status().headers.get("docker-content-digest", "")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, AttributeError) as error:
        raise NoDigest(f"{image}: {registry} gives no digest ({type(error).__name__})") from None
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", found):
        raise NoDigest(f"{image}: {registry} gives no digest")
    return found


def main(hub: str = HUB) -> int:
    """Pins every image, or none."""
    texts = {path: path.read_text() for path in DOCKERFILES}
    images = {found["image"] for text in texts.values() for found in bases(text)}
    try:
        digests = {image: digest(image, hub) for image in sorted(images)}
    except NoDigest as none:
        print(f"lock-image: nothing is written: {none}", file=sys.stderr)
        return 1
    for path, text in texts.items():
        for found in reversed(bases(text)):
            end = found.end("digest") if found["digest"] else found.end("image")
            text = f"{text[: found.end('image')]}@{digests[found['image']]}{text[end:]}"  # noqa: PLW2901 - from the end, so that places stay
        path.write_text(text)
    for image, found_digest in digests.items():
        print(f"lock-image: {image}@{found_digest}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
