"""Bringing a public data set onto this machine: download, verify, unpack; or how to ask for a licensed one.

| module | what |
|---|---|
| `catalog` | which sets there are: the official address of a public one, whom to ask for a licensed one |
| `download` | one file over HTTP: goes on where it stopped, checks length and SHA-256 |
| `unpack` | one ZIP archive: no member leaves the folder, all or nothing |
| `run` | `fetch(name, folder)`: the three together, and what the set must hold in the end |
"""

from taskloom.data.fetch.catalog import LICENSED, PUBLIC, LicensedSet, PublicSet
from taskloom.data.fetch.download import download
from taskloom.data.fetch.run import Fetched, fetch
from taskloom.data.fetch.unpack import unpack_zip

__all__ = [
    "LICENSED",
    "PUBLIC",
    "Fetched",
    "LicensedSet",
    "PublicSet",
    "download",
    "fetch",
    "unpack_zip",
]
