#!/usr/bin/env bash
# The demo: a real bag through real DDS into the node, a recorded bag and a report out.
# Usage: scripts/demo.sh [options of the demo; --help lists them]
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
"$repo/scripts/setup.sh" runtime
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
cd "$repo"
exec "${COOPNET_VENV:-$repo/.venv}/bin/python" -m coopnet_ros.demo "$@"
