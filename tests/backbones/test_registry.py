"""The registry finds, checks and pulls weights, and says in one sentence what is wrong with them."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from latentseg.backbones import download, registry
from latentseg.errors import ModelError

WEIGHTS = bytes(range(256)) * 40
FILES = {"config.json": b"{}", "unet/weights.safetensors": WEIGHTS}


def tiny_row(**changes: Any) -> dict[str, Any]:
    row = {
        "title": "A tiny model",
        "kind": "hub",
        "dims": 2,
        "license": "Apache-2.0",
        "license_url": "https://example.org/license",
        "license_note": "",
        "repos": ["nobody/tiny"],
        "files": [{"path": path, "bytes": 0, "sha256": ""} for path in FILES],
    }
    return row | changes


@pytest.fixture
def mirror(tmp_path: Path) -> Path:
    """A folder that holds the files of the model `tiny`."""
    for path, content in FILES.items():
        (tmp_path / "mirror" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mirror" / path).write_bytes(content)
    return tmp_path / "mirror"


@pytest.fixture
def set_table(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Change what the registry knows of the model `tiny`."""
    real = registry._table()

    def change(**changes: Any) -> None:
        monkeypatch.setattr(registry, "_table", lambda: {**real, "tiny": tiny_row(**changes)})

    change()
    return change


@pytest.fixture
def pulled(mirror: Path, set_table: Callable[..., None]) -> Path:
    """The model `tiny`, pulled from the mirror."""
    return download.pull("tiny", mirror=mirror)


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")


def test_shipped_table_is_complete() -> None:
    assert registry.names()[:3] == ("compact", "stable-diffusion-1.5", "dinov2-base")
    assert registry.names()[3:] == ("maisi-ct-rflow", "maisi-ct-ddpm", "maisi-mr-brain")
    for name in registry.names():
        model = registry.info(name)
        assert model.license
        assert model.license_url.startswith("https://")
        assert model.kind == "embedded" or (model.repos and model.files)
        assert all(len(file.sha256) in (0, 64) for file in model.files)


def test_unknown_name_offers_the_nearest() -> None:
    with pytest.raises(ModelError, match=r"unknown model 'Stable-diffusion-15'.*'stable-diffusion-1.5'\?"):
        registry.info("Stable-diffusion-15")
    with pytest.raises(ModelError, match="compact, stable-diffusion"):
        registry.resolve("zzz", offline=True)


def test_resolve_takes_a_folder_and_names_a_missing_one(tmp_path: Path) -> None:
    assert registry.resolve(tmp_path) == tmp_path
    assert registry.resolve(str(tmp_path), offline=True) == tmp_path
    with pytest.raises(ModelError, match="no such model folder"):
        registry.resolve(tmp_path / "gone")


@pytest.mark.parametrize("as_address", [False, True])
def test_pull_from_a_folder(as_address: bool, mirror: Path, set_table: Callable[..., None]) -> None:
    seen: list[tuple[str, int, int]] = []
    where = mirror.as_uri() if as_address else mirror
    folder = download.pull("tiny", mirror=where, offline=True, on_file=lambda *call: seen.append(call))
    assert folder == registry.home() / "models" / "tiny" == registry.resolve("tiny") == registry.path("tiny")
    assert (folder / "unet/weights.safetensors").read_bytes() == WEIGHTS
    assert seen == [("config.json", 1, 2), ("unet/weights.safetensors", 2, 2)]
    assert {file.trust for file in registry.verify("tiny")} == {"first use"}
    assert json.loads((folder / registry.LOCK_NAME).read_text(encoding="utf-8"))["license"] == "Apache-2.0"
    assert sorted(entry.name for entry in folder.parent.iterdir()) == [".tiny.pulling", "tiny"]


def test_a_pulled_folder_is_a_mirror_with_hashes(
    pulled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATENTSEG_HOME", str(tmp_path / "other_machine"))
    download.pull("tiny", mirror=pulled)
    assert {file.trust for file in registry.verify("tiny")} == {"mirror"}


def test_pull_refuses_a_file_of_the_wrong_hash(mirror: Path, set_table: Callable[..., None]) -> None:
    set_table(files=[{"path": "config.json", "bytes": 0, "sha256": "0" * 64}])
    with pytest.raises(ModelError, match=r"wrong file 'config.json', sha256 is 44136f.* should be 0000"):
        download.pull("tiny", mirror=mirror)
    assert not registry.is_present("tiny")


def test_later_pulls_must_agree_with_the_first(pulled: Path, mirror: Path) -> None:
    (mirror / "config.json").write_bytes(b'{"changed": 1}')
    with pytest.raises(ModelError, match=r"wrong file 'config.json'"):
        download.pull("tiny", mirror=mirror)
    assert registry.verify("tiny")


def test_pull_says_which_file_the_mirror_lacks(mirror: Path, set_table: Callable[..., None]) -> None:
    (mirror / "unet/weights.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks the file 'unet/weights.safetensors'"):
        download.pull("tiny", mirror=mirror)
    assert not registry.is_present("tiny")


def test_corrupt_file_is_named_with_both_hashes_and_the_fix(pulled: Path) -> None:
    damaged = bytearray(WEIGHTS)
    damaged[100] ^= 1
    (pulled / "unet/weights.safetensors").write_bytes(damaged)
    for check in (registry.verify, registry.resolve):
        with pytest.raises(ModelError) as caught:
            check("tiny")
        message = str(caught.value)
        assert "unet/weights.safetensors" in message
        assert message.count("sha256") == 1
        assert "latentseg models pull tiny" in message
        assert len([word for word in message.replace(":", " ").split() if len(word) == 64]) == 2
    assert caught.value.exit_code == 4


def test_corrupt_files_are_repaired_by_a_pull(pulled: Path, mirror: Path) -> None:
    (pulled / "config.json").write_bytes(b"")
    download.pull("tiny", mirror=mirror)
    assert registry.verify("tiny")


def test_large_unchanged_files_are_not_hashed_again(pulled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SMALL", 100)
    hashed: list[str] = []
    real = registry.sha256_of
    monkeypatch.setattr(registry, "sha256_of", lambda file: hashed.append(file.name) or real(file))
    registry.resolve("tiny")
    assert hashed == ["config.json"]
    os.utime(pulled / "unet/weights.safetensors")
    registry.resolve("tiny")
    assert "weights.safetensors" in hashed


def test_missing_file_and_unreadable_lock(pulled: Path) -> None:
    (pulled / "config.json").unlink()
    with pytest.raises(ModelError, match=r"missing weights file: .*config.json"):
        registry.resolve("tiny")
    (pulled / registry.LOCK_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="unreadable record of hashes"):
        registry.resolve("tiny")


def test_resolve_never_downloads_and_says_how_to_pull(set_table: Callable[..., None]) -> None:
    with pytest.raises(ModelError, match=r"offline is set.*models pull tiny.*--mirror"):
        registry.resolve("tiny", offline=True)


def test_resolve_names_the_command_and_the_license(set_table: Callable[..., None], online: None) -> None:
    with pytest.raises(ModelError, match=r"has not been pulled.*models pull tiny.*Apache-2.0"):
        registry.resolve("tiny")


def test_offline_refuses_the_network(
    set_table: Callable[..., None], online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match=r"cannot pull 'tiny', offline is set.*--mirror"):
        download.pull("tiny", offline=True)
    monkeypatch.setenv("LATENTSEG_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"offline is set: https://mirror.example"):
        download.pull("tiny", mirror="https://mirror.example")


def test_plain_http_is_refused(set_table: Callable[..., None], online: None) -> None:
    with pytest.raises(ModelError, match=r"must be a folder, file:// or https://: http://mirror.example"):
        download.pull("tiny", mirror="http://mirror.example")


def test_no_disk_space(set_table: Callable[..., None], mirror: Path) -> None:
    set_table(files=[{"path": "config.json", "bytes": 10**18, "sha256": ""}])
    with pytest.raises(ModelError, match=r"needs 1000000000.0 GB and .* free.*LATENTSEG_HOME"):
        download.pull("tiny", mirror=mirror)


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves `FILES` with ranges; the first answer for the weights breaks off in the middle."""

    requests: list[tuple[str, str]]

    def do_GET(self) -> None:
        name, wanted = self.path.removeprefix("/m/"), self.headers.get("Range", "")
        self.requests.append((name, wanted))
        if name not in FILES:
            self.send_error(404)
            return
        start = int(wanted[len("bytes=") : -1]) if wanted else 0
        body = FILES[name][start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        breaks = name.endswith("safetensors") and not start
        self.wfile.write(body[: len(body) // 2] if breaks else body)

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server() -> Iterator[str]:
    RangeHandler.requests = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RangeHandler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/m"
        running.shutdown()


def test_web_mirror_goes_on_where_it_stopped(
    server: str, set_table: Callable[..., None], online: None
) -> None:
    with pytest.raises(ModelError, match=r"cannot fetch 'tiny'.*ended after 5120 of 10240 bytes"):
        download.pull("tiny", mirror=server)
    assert not registry.is_present("tiny")
    folder = download.pull("tiny", mirror=server + "/")
    assert (folder / "unet/weights.safetensors").read_bytes() == WEIGHTS
    assert ("unet/weights.safetensors", "bytes=5120-") in RangeHandler.requests


def test_web_mirror_without_the_file(server: str, set_table: Callable[..., None], online: None) -> None:
    set_table(files=[{"path": "other.bin", "bytes": 0, "sha256": ""}])
    with pytest.raises(ModelError, match=r"other.bin: HTTP 404"):
        download.pull("tiny", mirror=server)


def test_hub_falls_back_to_the_next_repository(
    mirror: Path, set_table: Callable[..., None], online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hub(download.FolderSource):
        def __init__(self, repo: str, **_: object) -> None:
            super().__init__(mirror, trust="hub")
            self.label = repo

        def declared(self) -> dict[str, str]:
            if self.label == "gone/tiny":
                raise ConnectionError("404")
            return {"config.json": registry.sha256_of(mirror / "config.json")}

    set_table(repos=["gone/tiny", "here/tiny"])
    monkeypatch.setattr(download, "HubSource", Hub)
    folder = download.pull("tiny")
    assert json.loads((folder / registry.LOCK_NAME).read_text(encoding="utf-8"))["source"] == "here/tiny"
    assert [file.trust for file in registry.verify("tiny")] == ["hub", "first use"]


def test_unreachable_hub_is_one_sentence(
    set_table: Callable[..., None], online: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(_: object) -> dict[str, str]:
        raise ConnectionError("no route to host")

    monkeypatch.setattr(download.HubSource, "declared", no_network)
    with pytest.raises(ModelError, match=r"cannot fetch 'tiny' .*no route.*nobody/tiny.*--mirror"):
        download.pull("tiny")


def test_hub_source_reads_the_hubs_own_hashes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    class Lfs:
        sha256 = "a" * 64

    class Sibling:
        rfilename, lfs = "unet/weights.safetensors", Lfs

    class State:
        sha, siblings = "cafe", [Sibling]

    calls: list[tuple[Any, ...]] = []
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: State)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *args, **kw: calls.append((args, kw)))
    source = download.HubSource("some/repo")
    assert source.declared() == {"unet/weights.safetensors": "a" * 64}
    source.fetch("unet/weights.safetensors", tmp_path / "unet" / "weights.safetensors")
    expected = ("some/repo", "unet/weights.safetensors"), {"revision": "cafe", "local_dir": tmp_path}
    assert calls == [expected]


def test_a_file_that_another_repository_holds(
    set_table: Callable[..., None], monkeypatch: pytest.MonkeyPatch, online: None
) -> None:
    import huggingface_hub

    class State:
        def __init__(self, repo: str) -> None:
            name = {"nobody/tiny": "config.json", "some/other": "unet/weights.safetensors"}[repo]
            record = SimpleNamespace(sha256=hashlib.sha256(FILES[name]).hexdigest())
            self.sha, self.siblings = f"sha of {repo}", [SimpleNamespace(rfilename=name, lfs=record)]

    def fetched(repo: str, name: str, *, revision: str, local_dir: Path) -> None:
        assert revision == f"sha of {repo}"
        assert repo == ("some/other" if name.startswith("unet") else "nobody/tiny")
        (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (local_dir / name).write_bytes(FILES[name])

    rows = [{"path": path, "bytes": 0, "sha256": ""} for path in FILES]
    set_table(files=[rows[0], rows[1] | {"repo": "some/other"}])
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda _, repo, **__: State(repo))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetched)
    lock = json.loads((download.pull("tiny") / registry.LOCK_NAME).read_text(encoding="utf-8"))
    assert (
        lock["source"]
        == "hub repository nobody/tiny at sha of nobody/tiny and some/other at sha of some/other"
    )
    assert [file.trust for file in registry.verify("tiny")] == ["hub", "hub"]


def test_embedded_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "autoencoder.safetensors").write_bytes(WEIGHTS)
    monkeypatch.setattr(registry, "_embedded_folder", lambda _: tmp_path)
    with pytest.raises(ModelError, match="weights of 'compact' are missing"):
        registry.resolve("compact")
    registry.write_manifest(tmp_path, version="1", license="CC BY 4.0")
    assert registry.info("compact").license == "CC BY 4.0"
    assert registry.resolve("compact", offline=True) == tmp_path == download.pull("compact")
    assert registry.info("compact").total_bytes == len(WEIGHTS)
    (tmp_path / "autoencoder.safetensors").write_bytes(WEIGHTS[:-1])
    with pytest.raises(ModelError, match=r"corrupt file.*autoencoder.*Reinstall latentseg"):
        registry.resolve("compact")


@pytest.mark.skipif(not registry.is_present("compact"), reason="no embedded weights in this checkout yet")
def test_shipped_weights_are_what_the_manifest_says() -> None:
    assert registry.verify("compact")
    sizes = {file.path: file.bytes for file in registry.info("compact").files}
    assert max(sizes.values()) <= 30e6
    assert sizes["autoencoder.safetensors"] + sizes.get("denoiser.safetensors", 0) <= 30e6
