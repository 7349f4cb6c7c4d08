"""The page, made once: everything it needs stands in it, and it may ask nobody but its own server."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from typing import Any

from taskloom.report.pages import fill

_KINDS = {
    "binary": "one of two classes",
    "multiclass": "one of several classes",
    "multilabel": "any of several labels",
    "ordinal": "a level",
    "regression": "a number",
    "landmarks": "points",
}


def make_page(about: Mapping[str, Any]) -> tuple[str, str]:
    """Makes the page of a bundle.

    Args:
        about: What `GET /about` answers.

    Returns:
        The page as HTML, and its Content-Security-Policy: the scripts and styles that stand in it, by their
        checksums, pictures of its own, and requests to its own server.
    """
    page = fill("serve.html.j2", about=about, kinds=_KINDS)
    scripts = _checksums(re.findall(r"<script>(.*?)</script>", page, re.DOTALL))
    styles = _checksums(re.findall(r"<style>(.*?)</style>", page, re.DOTALL))
    policy = (
        f"default-src 'none'; script-src {scripts}; style-src {styles}; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return page, policy


def _checksums(parts: list[str]) -> str:
    digests = [hashlib.sha256(part.encode()).digest() for part in parts]
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
