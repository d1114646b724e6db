"""Real perception nodes, one for each transport, under everything that goes wrong on a robot.

    python test/ros/fault_injection.py --minutes 10 --seed 1

After each fault a good camera must get its answers, TF must not have jumped without a reset that
/diagnostics reports, and the node's log must hold no traceback. At the end there is a line for each
kind of fault; the exit status is 0 when nothing was found. The faults and their numbers follow from
the seed alone, the times between them do not.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "support"))

from node_faults import COMPRESSED_ONLY, FAULTS, RAW_ONLY, Target, run_neighbour
from node_watch import Watch
from process_memory import anonymous_mb, growth_mb
from ros_harness import Harness
from tiny_bundle import HEIGHT, WIDTH, write_tiny_bundle

from coopnet_core.inference.bundle import sha256_of

# What the networks of every bundle here say: the camera goes to the left by 10 * 2 / 64 m a frame.
# Nothing in front of a wall is measured exactly, and a lost frame adds nothing.
FLOW = (-2.0, 0.0)
MAX_STEP_M = 1.0
# Growth of the node's own memory from the first quarter of a run to the last one.
MAX_GROWTH_MB = 30.0
MIN_MINUTES_FOR_GROWTH = 5.0


def unfit(bundle: Path) -> Path:
    """A bundle whose hashes are right, but whose network no library can load."""
    copy = bundle.with_name("unfit")
    shutil.copytree(bundle, copy)
    (copy / "flow.onnx").write_bytes(b"not a network")
    info = json.loads((copy / "bundle.json").read_text())
    info["files"]["flow.onnx"] = {"sha256": sha256_of(copy / "flow.onnx"), "size_bytes": 13}
    (copy / "bundle.json").write_text(json.dumps(info))
    return copy


def damaged(bundle: Path) -> Path:
    """A bundle with a file that is not what its hash says."""
    copy = bundle.with_name("damaged")
    shutil.copytree(bundle, copy)
    (copy / "depth.onnx").write_bytes(b"")
    return copy


def start(folder: Path, *, is_compressed: bool) -> Target:
    """Start a node, and everything around it."""
    folder.mkdir()
    good = [
        write_tiny_bundle(folder / "first", flow=FLOW),
        write_tiny_bundle(folder / "second", flow=FLOW, name="second"),
        write_tiny_bundle(folder / "wide", flow=FLOW, width=96, name="wide"),
    ]
    harness = Harness(folder)
    watch = Watch(harness, [(WIDTH, HEIGHT), (96, HEIGHT)], MAX_STEP_M)
    harness.start_node(
        bundle=good[0],
        num_threads=1,
        path_period_s=0.0,
        path_length=50,
        diagnostics_period_s=0.1,
        image_transport="compressed" if is_compressed else "raw",
    )
    harness.wait_for_node()
    neighbour = (str(Path(__file__).resolve()), "--neighbour")
    return Target(
        harness,
        watch,
        good,
        [unfit(good[0]), damaged(good[0])],
        neighbour,
        is_compressed=is_compressed,
    )


class Run:
    """Rounds of faults against several nodes."""

    def __init__(self, targets: dict[str, Target], faults: Sequence[str], seed: int) -> None:
        self._targets, self._faults, self._seed = targets, list(faults), seed
        self.num_rounds = 0
        self.problems: list[str] = []
        self._thrown: dict[str, list[int]] = defaultdict(list)
        self._answers_s: dict[str, list[float]] = defaultdict(list)
        self._memory_mb: dict[str, list[float]] = defaultdict(list)
        self._log_size: dict[str, int] = defaultdict(int)

    def until(self, end_s: float, num_cycles: int) -> None:
        """Throw each fault, and again in another order, until something ends it.

        Args:
            end_s: Time of the monotonic clock after which no round starts.
            num_cycles: How often each fault comes. A node that is stuck or gone ends it, too.
        """
        for cycle in range(num_cycles):
            order = np.random.default_rng([self._seed, cycle]).permutation(self._faults)
            for fault in map(str, order):
                if time.monotonic() > end_s or not self._round(fault, self._pick(fault, cycle)):
                    return

    def _pick(self, fault: str, cycle: int) -> str:
        """Return which node is to suffer: one and the other in turn, where it can be either."""
        fitting = [
            name
            for name, target in self._targets.items()
            if fault not in (RAW_ONLY if target.is_compressed else COMPRESSED_ONLY)
        ]
        return fitting[(cycle + self._faults.index(fault)) % len(fitting)]

    def _round(self, fault: str, name: str) -> bool:
        """Throw one fault, and return whether the run can go on."""
        target = self._targets[name]
        self.num_rounds += 1
        where = f"round {self.num_rounds}, {fault}, {name}"
        rng = np.random.default_rng([self._seed, self.num_rounds, 1])
        num_resets, num_jumps = self._resets(target), target.watch.num_jumps
        try:
            self._thrown[fault].append(FAULTS[fault](target, rng))
            self._answers_s[fault].append(target.recover())
            num_resets = self._resets(target) - num_resets
        except AssertionError as error:
            # The harness appends the log, which is long.
            self.problems.append(f"{where}: {str(error)[:200]}")
            return False
        num_jumps = target.watch.num_jumps - num_jumps
        if num_jumps > num_resets:
            self.problems.append(f"{where}: {num_jumps} jumps of odometry, {num_resets} resets")
        target.watch.compare_tf()
        self.problems += [f"{where}: {violation}" for violation in target.watch.violations]
        target.watch.violations.clear()
        target.harness.received["/diagnostics"].clear()
        log = target.harness.log()
        new, self._log_size[name] = log[self._log_size[name] :], len(log)
        self.problems += [
            f"{where}: '{text}' in the log"
            for text in ("Traceback", "internal error")
            if text in new
        ]
        self._memory_mb[name].append(anonymous_mb(target.harness.pid))
        return True

    def _resets(self, target: Target) -> int:
        return int(target.next_status("odometry")[1]["resets"])

    def finish(self, minutes: float) -> list[str]:
        """End the nodes; return the lines of the report."""
        lines = []
        for fault in self._faults:
            thrown, answers_ms = self._thrown[fault], np.array(self._answers_s[fault]) * 1e3
            line = f"{fault:16} {len(thrown):4} rounds {sum(thrown):6} thrown"
            if answers_ms.size:
                line += (
                    f"; good image answered in {np.median(answers_ms):4.0f} ms (median), "
                    f"{answers_ms.max():5.0f} ms (longest)"
                )
            lines.append(line)
        for name, target in self._targets.items():
            if target.harness.node_is_alive():
                status = target.harness.stop_node()
                if status != 0:
                    self.problems.append(f"{name}: exit status {status} after SIGINT")
            watch, memory = target.watch, self._memory_mb[name]
            if not memory:
                continue
            lines.append(
                f"{name:16} {sum(watch.num_messages.values())} messages checked, "
                f"{watch.num_jumps} jumps of odometry; "
                f"memory {memory[0]:.0f} MB at first, {memory[-1]:.0f} at last, "
                f"{max(memory):.0f} at most"
            )
            growth = growth_mb(memory)
            if minutes >= MIN_MINUTES_FOR_GROWTH and growth > MAX_GROWTH_MB:
                self.problems.append(f"{name}: memory grew by {growth:.0f} MB")
        return lines


def main() -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cycles", type=int, default=10**6, help="each fault so often at most")
    parser.add_argument("--only", choices=FAULTS, action="append", help="this fault alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--logs", type=Path, help="folder that keeps the nodes' logs")
    parser.add_argument("--neighbour", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.neighbour:
        domain, namespace, first_ns, *rest = options.neighbour
        run_neighbour(int(domain), namespace, int(first_ns), is_compressed=bool(rest))
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.logs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        targets = {
            name: start(folder / name, is_compressed=name == "compressed")
            for name in ("raw", "compressed")
        }
        try:
            run = Run(targets, options.only or list(FAULTS), options.seed)
            run.until(time.monotonic() + 60 * options.minutes, options.cycles)
            print("\n".join(run.finish(options.minutes)))
        finally:
            for target in targets.values():
                target.harness.__exit__(None, None, None)
        for problem in run.problems:
            print(f"FOUND {problem}")
    print(f"{run.num_rounds} rounds, seed {options.seed}: {len(run.problems)} problems")
    return 1 if run.problems else 0


if __name__ == "__main__":
    sys.exit(main())
