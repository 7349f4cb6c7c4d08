"""Fetching a data set, against a server on the loopback address that behaves and misbehaves."""

from __future__ import annotations

import hashlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from taskloom.cli import app
from taskloom.data.fetch import LICENSED, PUBLIC, LicensedSet, download, fetch, unpack_zip
from taskloom.data.simulate.opportunity import simulate_opportunity
from taskloom.errors import ConfigError, DataError

BODY = bytes(range(256)) * 5_000


@dataclass
class Site:
    """What the server holds and how it behaves; `requests` are the Range headers it saw."""

    body: bytes = BODY
    etag: str | None = '"one"'
    cut_at: int | None = None
    status: int = 200
    ranges: bool = True
    requests: list[str | None] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    state = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append(wanted)
            if state.status != 200:
                self.send_error(state.status)
                return
            start = 0
            if wanted and state.ranges and self.headers.get("If-Range") == state.etag:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(state.body) - 1}/{len(state.body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(state.body) - start))
            if state.etag is not None:
                self.send_header("ETag", state.etag)
            self.end_headers()
            self.wfile.write(state.body[start : state.cut_at])
            self.wfile.flush()
            if state.cut_at is not None:
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/set.zip"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_brings_the_bytes_and_their_digest(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    came = download(site.url, tmp_path / "a" / "set.zip", report=lambda *progress: seen.append(progress))
    assert came.path.read_bytes() == BODY
    assert came.sha256 == hashlib.sha256(BODY).hexdigest()
    assert (came.size, came.resumed_at) == (len(BODY), 0)
    assert seen[-1] == (len(BODY), len(BODY))
    assert [path.name for path in came.path.parent.iterdir()] == ["set.zip"]


def test_what_was_interrupted_goes_on_where_it_stopped(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    site.cut_at = 700_000
    with pytest.raises(DataError, match=r"1,280,000 bytes expected, 700,000 came; call again"):
        download(site.url, path)
    assert not path.exists()
    site.cut_at = None
    came = download(site.url, path)
    assert site.requests == [None, "bytes=700000-"]
    assert came.resumed_at == 700_000
    assert path.read_bytes() == BODY


def test_another_version_on_the_server_is_brought_whole(site: Site, tmp_path: Path) -> None:
    """Half of one version joined to half of another would have the right length."""
    path = tmp_path / "set.zip"
    site.cut_at = 700_000
    with pytest.raises(DataError, match="call again"):
        download(site.url, path)
    site.cut_at, site.etag, site.body = None, '"two"', BODY[::-1]
    came = download(site.url, path)
    assert came.resumed_at == 0
    assert path.read_bytes() == BODY[::-1]


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_validator_it_starts_again(site: Site, tmp_path: Path, etag: str | None) -> None:
    site.etag, site.cut_at = etag, 10_000
    with pytest.raises(DataError, match="call again"):
        download(site.url, tmp_path / "set.zip")
    site.cut_at = None
    assert download(site.url, tmp_path / "set.zip").path.read_bytes() == BODY
    assert site.requests == [None, None]


def test_a_server_that_ignores_ranges_sends_the_whole(site: Site, tmp_path: Path) -> None:
    site.cut_at, site.ranges = 10_000, False
    with pytest.raises(DataError, match="call again"):
        download(site.url, tmp_path / "set.zip")
    site.cut_at = None
    assert download(site.url, tmp_path / "set.zip").path.read_bytes() == BODY
    assert site.requests == [None, "bytes=10000-"]


def test_a_complete_partial_file_only_needs_its_name(site: Site, tmp_path: Path) -> None:
    """Killed between the last byte and the rename."""
    (tmp_path / "set.zip.partial").write_bytes(BODY)
    note = {"url": site.url, "validator": site.etag, "size": len(BODY)}
    (tmp_path / "set.zip.partial.json").write_text(json.dumps(note))
    assert download(site.url, tmp_path / "set.zip").path.read_bytes() == BODY
    assert site.requests == []


def test_another_digest_is_refused_and_nothing_stays(site: Site, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"SHA-256 {'0' * 64} expected, found {hashlib.sha256(BODY).hexdigest()}"
    ):
        download(site.url, tmp_path / "set.zip", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_server_is_said_with_the_way_out(site: Site, tmp_path: Path) -> None:
    site.status = 404
    with pytest.raises(DataError, match=r"the server answers 404 .*--url.*--archive"):
        download(site.url, tmp_path / "set.zip")


def test_no_server_is_said_with_the_way_out(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/set.zip"
    with pytest.raises(DataError, match=r"cannot be downloaded \(.*refused.*--archive"):
        download(address, tmp_path / "set.zip")


def test_only_http_addresses(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="http:// or https:// expected"):
        download("file:///etc/passwd", tmp_path / "set.zip")


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return path


@pytest.mark.parametrize(
    "name",
    ["../out.txt", "/out.txt", "a/../../out.txt", "..\\out.txt", "C:\\out.txt", "C:x"],
)
def test_no_member_leaves_the_folder(tmp_path: Path, name: str) -> None:
    archive = _zip(tmp_path / "set.zip", {"good.txt": b"good", name: b"bad"})
    with pytest.raises(DataError, match="outside of the folder"):
        unpack_zip(archive, tmp_path / "new" / "set")
    assert [path.name for path in tmp_path.rglob("*")] == ["set.zip"]


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DataError, match="'link' is a link"):
        unpack_zip(tmp_path / "set.zip", tmp_path / "set")


def test_two_members_of_one_name_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "set.zip", {"a.txt": b"1", "A.txt": b"2"})
    with pytest.raises(DataError, match="two members are called"):
        unpack_zip(archive, tmp_path / "set")


def test_a_bomb_is_refused_before_and_while_it_unpacks(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "set.zip", {"zeros": bytes(1 << 20)})
    with pytest.raises(DataError, match="unpacks to 1,048,576 bytes, at most 1,000"):
        unpack_zip(archive, tmp_path / "set", most_bytes=1_000)
    assert not (tmp_path / "set").exists()


def test_a_damaged_member_leaves_nothing(tmp_path: Path) -> None:
    content = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(200))
    archive = tmp_path / "set.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("a.txt", b"good")
        opened.writestr("b.txt", content)
    raw = bytearray(archive.read_bytes())
    raw[raw.index(content) + 100] ^= 1
    archive.write_bytes(raw)
    with pytest.raises(DataError, match="fetch it again"):
        unpack_zip(archive, tmp_path / "set")
    assert [path.name for path in tmp_path.iterdir()] == ["set.zip"]


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_what_is_no_archive_is_said(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "set.zip").write_bytes(content)
    with pytest.raises(DataError, match="not a whole ZIP file"):
        unpack_zip(tmp_path / "set.zip", tmp_path / "set")


@pytest.fixture(scope="module")
def opportunity_zip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Four people's runs as the official archive holds them, one folder down."""
    folder = tmp_path_factory.mktemp("simulated")
    simulate_opportunity(folder, people=4, seconds_per_run=5.0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.glob("*.dat")):
            archive.write(path, f"OpportunityUCIDataset/dataset/{path.name}")
        archive.writestr("OpportunityUCIDataset/dataset/column_names.txt", "names")
    return buffer.getvalue()


def test_fetch_opportunity_and_read_it(site: Site, tmp_path: Path, opportunity_zip: bytes) -> None:
    from taskloom.data.readers.opportunity import OpportunityReader

    site.body = opportunity_zip
    result = CliRunner().invoke(app, ["fetch", "opportunity", str(tmp_path / "sets"), "--url", site.url])
    assert result.exit_code == 0, result.output
    data = tmp_path / "sets" / "opportunity" / "OpportunityUCIDataset" / "dataset"
    assert f"data     {data}" in result.output
    assert hashlib.sha256(opportunity_zip).hexdigest() in result.output
    assert len(list(OpportunityReader(data).recordings())) == 24
    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["opportunity"]
    again = CliRunner().invoke(app, ["fetch", "opportunity", str(tmp_path / "sets"), "--url", site.url])
    assert "there already" in again.output
    assert len(site.requests) == 1


def test_a_file_changed_since_is_named(site: Site, tmp_path: Path, opportunity_zip: bytes) -> None:
    (tmp_path / "set.zip").write_bytes(opportunity_zip)
    fetched = fetch("opportunity", tmp_path, archive=tmp_path / "set.zip")
    assert not isinstance(fetched, LicensedSet)
    changed = fetched.folder / "S2-ADL3.dat"
    changed.write_text(changed.read_text()[:-1])
    with pytest.raises(DataError, match=r"S2-ADL3\.dat: changed since it was fetched"):
        fetch("opportunity", tmp_path)
    changed.unlink()
    with pytest.raises(DataError, match=r"S2-ADL3\.dat: was fetched and is missing"):
        fetch("opportunity", tmp_path)


def test_an_archive_with_a_run_missing_is_refused(tmp_path: Path, opportunity_zip: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(opportunity_zip)) as whole:
        members = {name: whole.read(name) for name in whole.namelist() if "S3-Drill" not in name}
    archive = _zip(tmp_path / "set.zip", members)
    with pytest.raises(DataError, match=r"1 of the 24 files .* missing, first S3-Drill\.dat"):
        fetch("opportunity", tmp_path / "sets", archive=archive)
    assert list((tmp_path / "sets").iterdir()) == []


def test_a_set_of_another_layout_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "set.zip", dict.fromkeys(PUBLIC["opportunity"].files, b"1 2 3\n"))
    with pytest.raises(DataError, match=r"S1-ADL1\.dat:1: 250 columns expected, found 3"):
        fetch("opportunity", tmp_path / "sets", archive=archive)


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "opportunity").mkdir()
    (tmp_path / "opportunity" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"not put there by `taskloom fetch`"):
        fetch("opportunity", tmp_path)
    assert (tmp_path / "opportunity" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize("name", sorted(LICENSED))
def test_licensed_sets_say_where_to_ask(name: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["fetch", name, str(tmp_path)])
    assert result.exit_code == 0
    assert "https://" in result.output or "http://" in result.output
    assert list(tmp_path.iterdir()) == []


def test_unknown_names_and_digests(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean `opportunity`\?"):
        fetch("oportunity", tmp_path)
    with pytest.raises(ConfigError, match="64 hexadecimal digits"):
        fetch("opportunity", tmp_path, sha256="abc")
