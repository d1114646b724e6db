"""Settings: typos are named, values are checked, the included recipes are valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coopnet_core.config import TrainingConfig, load_config, parse_config
from coopnet_core.config.loading import default_recipe_path
from coopnet_core.errors import ConfigError

RECIPES = sorted((Path(__file__).parents[2] / "config" / "recipes").glob("*.yaml"))


def minimal(**changes: Any) -> dict[str, Any]:
    content: dict[str, Any] = {
        "sources": [{"kind": "image_folder", "path": "frames"}],
        "stages": [
            {"name": "a", "steps": 3, "width": 64, "height": 64, "rebalance": False},
            {"name": "b", "steps": 2, "width": 96, "height": 64},
        ],
    }
    content.update(changes)
    return content


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_included_recipes_are_valid(path: Path) -> None:
    config = load_config(path, TrainingConfig)
    assert config.num_steps > 0


def test_default_recipe_is_found() -> None:
    assert default_recipe_path() in RECIPES
    with pytest.raises(ConfigError, match="coopnet_small"):
        default_recipe_path("nothing")


def test_stage_of_a_step() -> None:
    config = parse_config(minimal(), TrainingConfig, "test")
    names = [config.stage_at(step).name for step in (0, 2, 3, 4, 9)]
    assert names == ["a", "a", "b", "b", "b"]
    assert config.num_steps == 5


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"batchsize": 2}, "unknown key batchsize: did you mean batch_size?"),
        ({"loss": {"epipola": 1}}, "unknown key loss.epipola: did you mean epipolar?"),
        ({"loss": {"band": {"kapa": 1}}}, "unknown key loss.band.kapa: did you mean kappa?"),
        ({"learning_rate": -1}, "learning_rate.*greater than 0.*got -1"),
        ({"stages": [{"name": "a", "steps": 1, "width": 100, "height": 64}]}, "multiple of 32"),
        ({"sources": [{"kind": "video", "path": "v.mp4"}]}, "calibration"),
        (
            {"sources": [{"kind": "image_folder", "path": "f", "first": 3, "last": 1}]},
            "last \\(1\\) is before first \\(3\\)",
        ),
        ({"sources": []}, "sources"),
        ({"sources": [{"kind": "image_folder", "path": "f", "gaps": [0]}]}, "gaps must be 1"),
        (
            {"sources": [{"kind": "rgbd", "path": "f", "stereo": True}]},
            "kind rgbd has no stereo; only kitti_odometry",
        ),
        ({"sources": [{"kind": "bag", "path": "f", "stereo": True}]}, "right_topic"),
        ({"sources": [{"kind": "bag", "path": "f", "split": "x"}]}, "kind bag has no split"),
        ({"sources": [{"kind": "kitti_raw", "path": "f"}]}, "needs a sequence .* or a split"),
        (
            {"sources": [{"kind": "cityscapes", "path": "f", "first": 0, "last": 1}]},
            "this source has several",
        ),
        ({"loss": {"band": {"mode": "mean"}}}, "histogram.*half_sample"),
        ({"loss": {"band": {"kappa": 0}}}, "kappa.*greater than 0"),
    ],
)
def test_mistakes_are_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_config(minimal(**changes), TrainingConfig, "test")


def test_files_that_are_not_settings(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        load_config(tmp_path / "none.yaml", TrainingConfig)
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(broken, TrainingConfig)
    broken.write_text("just words")
    with pytest.raises(ConfigError, match="keys and values, got str"):
        load_config(broken, TrainingConfig)
