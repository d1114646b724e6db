"""The engine cache: what is found, what is built again, and two processes at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from dataclasses import fields, replace
from pathlib import Path

import pytest
from fake_gpu import DEVICE, FakeCuda, fake_library
from tiny_bundle import write_tiny_bundle

from coopnet_core.errors import BundleError, EngineError
from coopnet_core.inference.bundle import Bundle, load_bundle
from coopnet_core.inference.engines import cache
from coopnet_core.inference.engines.builder import BuildOptions
from coopnet_core.inference.engines.cache import EngineKey, SideFile
from coopnet_core.inference.engines.prepare import engine_key, find_existing, find_or_build

KEY = EngineKey("ab" * 32, "tensorrt", "10.3.0", "Orin", "8.7", "float32", (1, 3, 32, 64), None, 9)
PLAN = b"the engine"


def side_file(key: EngineKey = KEY, built: str = "2026-01-01", plan: bytes = PLAN) -> SideFile:
    return SideFile(
        bundle="tiny-12345678",
        network="depth",
        key=key,
        engine_sha256=cache.sha256_of_bytes(plan),
        engine_bytes=len(plan),
        built=built,
        build_s=1.5,
        inputs={"image": "1x3x32x64 float32"},
        outputs={"canonical_depth": "1x1x32x64 float32"},
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_tiny_bundle(tmp_path / "b"))


def test_a_stored_engine_is_found_and_described_in_words(tmp_path: Path) -> None:
    stored = cache.store(tmp_path, side_file(), PLAN)
    found = cache.find(tmp_path, KEY)
    assert found == stored
    assert stored.path.read_bytes() == PLAN
    words = json.loads(stored.path.with_suffix(".json").read_text())
    assert words["key"]["gpu"] == "Orin"
    assert words["key"]["input_shape"] == [1, 3, 32, 64]
    assert stored.path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("field", [field.name for field in fields(EngineKey)])
def test_every_part_of_the_key_decides(field: str, tmp_path: Path) -> None:
    cache.store(tmp_path, side_file(), PLAN)
    other = replace(KEY, **{field: (1, 3, 64, 64) if field == "input_shape" else 7})
    assert other.digest != KEY.digest
    assert cache.find(tmp_path, other) is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "no engine", "no side", "bad side", "key"])
def test_a_damaged_or_half_written_engine_counts_as_absent(damage: str, tmp_path: Path) -> None:
    path = cache.store(tmp_path, side_file(), PLAN).path
    side = path.with_suffix(".json")
    if damage == "flip":
        path.write_bytes(b"The engine")
    elif damage == "truncate":
        path.write_bytes(PLAN[:4])
    elif damage == "no engine":
        path.unlink()
    elif damage == "no side":
        side.unlink()
    elif damage == "bad side":
        side.write_text(side.read_text()[:50])
    else:
        side.write_text(side.read_text().replace("Orin", "Xavier"))
    assert cache.find(tmp_path, KEY) is None
    assert cache.find_like(tmp_path, KEY) is None


def test_a_write_that_fails_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    cache.write_atomically(path, b"old")

    def no_space(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        cache.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EngineError, match=r"cannot write engines to .*file.*COOPNET_CACHE_DIR"):
        cache.store(tmp_path / "file", side_file(), PLAN)


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert cache.default_cache_dir() == Path("/x/coopnet/engines")
    monkeypatch.setenv(cache.CACHE_VARIABLE, "/own")
    assert cache.default_cache_dir() == Path("/own")


def test_an_engine_is_built_once_and_again_when_it_is_damaged(
    tmp_path: Path, bundle: Bundle
) -> None:
    library = fake_library("10.3.0")
    place = (tmp_path / "cache", bundle, "depth", library, DEVICE, BuildOptions())
    first, is_new = find_or_build(*place)
    assert is_new
    assert first.side.inputs == {"image": "1x3x32x64 float32"}
    assert find_or_build(*place) == (first, False)
    first.path.write_bytes(b"damaged")
    assert find_or_build(*place)[1]
    assert library.module.last.num_builds == 2
    timings = list((tmp_path / "cache").glob("timing-*"))
    assert [path.name for path in timings] == ["timing-tensorrt-10.3.0-Fake-GPU.cache"]
    assert timings[0].read_bytes() == b"timed;timed;"


def test_the_newest_engine_is_taken_whatever_its_workspace(tmp_path: Path, bundle: Bundle) -> None:
    library = fake_library("10.3.0", num_dla_cores=1)
    place = (tmp_path, bundle, "depth", library, DEVICE)
    with pytest.raises(EngineError, match=r"no tensorrt 10\.3\.0 engine .*with 'coopnet engine"):
        find_existing(*place, BuildOptions())
    find_or_build(*place, BuildOptions(workspace_mib=100))
    newest, _ = find_or_build(*place, BuildOptions(workspace_mib=200))
    assert find_existing(*place, BuildOptions(workspace_mib=300)) == newest


def test_without_a_gpu_only_rtx_knows_what_to_build_for(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="run this on the machine with the GPU"):
        engine_key(bundle, "depth", fake_library("10.3.0"), None, BuildOptions())
    rtx = fake_library("rtx 1.7")
    with pytest.raises(EngineError, match=r"--compute-capability 8\.6 8\.9"):
        engine_key(bundle, "depth", rtx, None, BuildOptions())
    ahead = engine_key(bundle, "depth", rtx, None, BuildOptions(compute_capability="8.7"))
    assert ahead == engine_key(bundle, "depth", rtx, DEVICE, BuildOptions())


def test_a_precision_that_the_bundle_lacks_is_named(bundle: Bundle, tmp_path: Path) -> None:
    place = (tmp_path, bundle, "flow", fake_library("10.3.0"), DEVICE)
    with pytest.raises(BundleError, match="has no int8, only float32"):
        find_or_build(*place, BuildOptions(precision="int8"))


def _build_slowly(folder: Path, bundle_path: Path, results: multiprocessing.Queue[bool]) -> None:
    library = fake_library("10.3.0", FakeCuda())
    builder = library.module.Builder(None)
    build = builder.build_serialized_network

    def slow(network: object, config: object) -> object:
        time.sleep(0.5)
        return build(network, config)

    builder.build_serialized_network = slow
    bundle = load_bundle(bundle_path)
    results.put(find_or_build(folder, bundle, "depth", library, DEVICE, BuildOptions())[1])


def test_of_two_processes_one_builds_and_one_waits(tmp_path: Path, bundle: Bundle) -> None:
    context = multiprocessing.get_context("fork")
    results: multiprocessing.Queue[bool] = context.Queue()
    processes = [
        context.Process(target=_build_slowly, args=(tmp_path / "c", bundle.path, results))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert sorted(results.get(timeout=60) for _ in processes) == [False, True]
    for process in processes:
        process.join(timeout=60)
        assert process.exitcode == 0
