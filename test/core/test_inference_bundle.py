"""Bundles: what is accepted, and what each kind of damage is called."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import write_tiny_bundle

from coopnet_core import installed
from coopnet_core.errors import BundleError
from coopnet_core.inference.bundle import default_bundle_path, load_bundle


@pytest.fixture
def bundle_dir(tmp_path: Path) -> Path:
    return write_tiny_bundle(tmp_path / "bundle", metric=True, color="gray")


def edit(bundle_dir: Path, **changes: Any) -> None:
    path = bundle_dir / "bundle.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


def test_a_sound_bundle_says_what_it_is(bundle_dir: Path) -> None:
    bundle = load_bundle(bundle_dir)
    assert (bundle.width, bundle.height, bundle.color, bundle.metric) == (64, 32, "gray", True)
    assert bundle.onnx_path("flow") == bundle_dir / "flow.onnx"
    assert bundle.version.startswith("tiny-")


def test_version_changes_with_the_weights(bundle_dir: Path, tmp_path: Path) -> None:
    other = write_tiny_bundle(tmp_path / "other", depth=11.0)
    assert load_bundle(bundle_dir).version != load_bundle(other).version


def test_a_changed_file_is_refused_with_both_hashes(bundle_dir: Path) -> None:
    path = bundle_dir / "depth.onnx"
    data = bytearray(path.read_bytes())
    expected = hashlib.sha256(data).hexdigest()
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(BundleError, match=r"depth\.onnx has SHA-256") as caught:
        load_bundle(bundle_dir)
    assert expected[:16] in str(caught.value)
    assert hashlib.sha256(data).hexdigest()[:16] in str(caught.value)


def test_a_truncated_file_is_refused_with_both_sizes(bundle_dir: Path) -> None:
    path = bundle_dir / "pose.onnx"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(BundleError, match=rf"pose\.onnx has 50 bytes, expected {size}"):
        load_bundle(bundle_dir)


def test_a_missing_file_is_named(bundle_dir: Path) -> None:
    (bundle_dir / "flow.onnx").unlink()
    with pytest.raises(BundleError, match=r"flow\.onnx is missing"):
        load_bundle(bundle_dir)


def test_a_missing_directory_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nowhere.*coopnet export"):
        load_bundle(tmp_path / "nowhere")


def test_a_directory_without_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"cannot read .*bundle\.json"):
        load_bundle(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "\x00\x01"])
def test_text_that_is_no_description_is_refused(bundle_dir: Path, content: str) -> None:
    (bundle_dir / "bundle.json").write_text(content)
    with pytest.raises(BundleError, match="not a valid bundle description"):
        load_bundle(bundle_dir)


def test_another_schema_version_names_both(bundle_dir: Path) -> None:
    edit(bundle_dir, schema_version=1)
    with pytest.raises(BundleError, match=r"schema_version must be 2 .*got '1'"):
        load_bundle(bundle_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"color": "rgb"}, r"color: Extra inputs"),
        ({"input": {"width": 100, "height": 32, "color": "gray"}}, r"input\.width"),
        ({"input": {"width": 64, "height": 32, "color": "blue"}}, r"input\.color"),
        ({"networks": {}}, "missing depth, pose, flow_features, flow"),
        ({"files": {"../x": {"sha256": "0" * 64, "size_bytes": 1}}}, "plain name"),
        ({"files": {"a": {"sha256": "0" * 64, "size_bytes": 1}}}, "not among its files"),
        ({"files": {"depth.onnx": {"sha256": "short", "size_bytes": 1}}}, "sha256"),
    ],
)
def test_a_wrong_description_names_the_key(
    bundle_dir: Path, change: dict[str, Any], message: str
) -> None:
    edit(bundle_dir, **change)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle_dir)


def test_the_default_bundle_is_found_in_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tiny_bundle(_made(tmp_path / "checkout" / "bundles") / "some")
    fake = tmp_path / "checkout" / "coopnet_core" / "installed.py"
    monkeypatch.setattr(installed, "__file__", str(fake))
    assert default_bundle_path("some") == tmp_path / "checkout" / "bundles" / "some"


def test_the_default_bundle_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = _made(tmp_path / "prefix" / "share" / "coopnet_ros" / "bundles")
    write_tiny_bundle(share / "some")
    site = tmp_path / "prefix" / "lib" / "python3.12" / "site-packages"
    monkeypatch.setattr(installed, "__file__", str(site / "coopnet_core" / "installed.py"))
    assert default_bundle_path("some") == share / "some"


def test_the_default_bundle_is_found_through_ament(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    share = _made(tmp_path / "overlay" / "share" / "coopnet_ros" / "bundles")
    write_tiny_bundle(share / "some")
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{tmp_path / 'empty'}:{tmp_path / 'overlay'}")
    assert default_bundle_path("some") == share / "some"


def test_an_unknown_default_bundle_lists_the_places() -> None:
    with pytest.raises(BundleError, match="no included bundle 'nothing': looked at"):
        default_bundle_path("nothing")


def _made(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
