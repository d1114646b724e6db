#!/usr/bin/env bash
# Makes the Python environment, once. Usage: scripts/setup.sh [runtime|dev]
#
#   runtime  what the nodes and the demo need (no torch)
#   dev      runtime, and what training, export and the tests need
#
# Where a ROS 2 is sourced, the environment sits on top of it. Where there is none, real ROS 2 Jazzy
# comes from wheels (rclpy, Fast DDS, messages), and tf2_msgs is built from its message.
#
#   COOPNET_VENV         folder of the environment (default: .venv beside this repository's README)
#   COOPNET_PYTHON       interpreter to build it on
#   COOPNET_TORCH_INDEX  package index for torch alone: with the address of PyTorch's CPU builds a
#                        machine without a GPU saves gigabytes (default: pip's own index)
#
# A second run finds a stamp and returns at once, offline. After a failed run, just run it again.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${COOPNET_VENV:-$repo/.venv}
level=${1:-runtime}
python_versions="3.10 3.11 3.12 3.13"  # for these there are ROS wheels
ros_wheels=(
    ros-rclpy ros-rmw-fastrtps-cpp ros-builtin-interfaces ros-diagnostic-msgs ros-geometry-msgs
    ros-lifecycle-msgs ros-nav-msgs ros-rcl-interfaces ros-rosgraph-msgs ros-sensor-msgs ros-std-msgs
    ros-std-srvs
)
rosidl_needs=(catkin-pkg empy lark-parser packaging)  # its wheels do not say so
ros_modules="rclpy builtin_interfaces diagnostic_msgs geometry_msgs lifecycle_msgs nav_msgs
    rcl_interfaces rosgraph_msgs sensor_msgs std_msgs std_srvs tf2_msgs"

say() { printf '[setup] %s\n' "$*"; }
die() {
    printf '\n[setup] FAILED: %s\n' "$1" >&2
    shift
    for line in "$@"; do printf '[setup]   %s\n' "$line" >&2; done
    exit 1
}

case $level in
    runtime | dev) ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 0 ;;
    *) die "unknown level '$level'" "Levels: runtime, dev" ;;
esac

# The ROS wheels restart Python once to set LD_LIBRARY_PATH and mark that in this variable. Started
# from another such environment, ours has to do it again for its own libraries.
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE

{ # Bash reads this group to its end before it starts: the file may change while it runs.
# ---------------------------------------------------------------- which interpreter
# The interpreter behind an activated environment: ours must not be built on itself.
base_of() {
    "$1" -c 'import os, sys
print(os.path.realpath(getattr(sys, "_base_executable", sys.executable)))'
}
python_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
has_headers() {
    "$1" -c 'import os, sysconfig
raise SystemExit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' 2>/dev/null
}

find_python_for_ros() {
    local candidate
    for candidate in ${COOPNET_PYTHON:-/usr/bin/python3 python3}; do
        if "$candidate" -c 'import rclpy' 2>/dev/null; then
            base_of "$candidate"
            return
        fi
    done
    die "ROS_DISTRO is '$ROS_DISTRO', but no Python here can import rclpy" \
        "Source the installation again (source /opt/ros/$ROS_DISTRO/setup.bash), or install" \
        "ros-$ROS_DISTRO-ros-base; or name the interpreter: COOPNET_PYTHON=/path/to/python3"
}

find_python_for_wheels() {
    local candidate version first="" tried=""
    [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die \
        "no ROS 2 is sourced, and the ROS wheels are for Linux on x86_64 (this is $(uname -sm))" \
        "Install ROS 2 (Humble, Jazzy, ...) for this machine, source it, and run this again."
    for candidate in ${COOPNET_PYTHON:-python3 python3.11 python3.12 python3.13 python3.10}; do
        version=$(python_version "$candidate") || continue
        tried="$tried $candidate=$version"
        [[ " $python_versions " == *" $version "* ]] || continue
        # One with Python.h can build tf2_msgs, so it goes first.
        if has_headers "$candidate"; then
            base_of "$candidate"
            return
        fi
        first=${first:-$(base_of "$candidate")}
    done
    [ -n "$first" ] || die \
        "the ROS wheels need Python ${python_versions// /, }; found:${tried:- none}" \
        "Debian/Ubuntu:  sudo apt-get install python3 python3-venv python3-dev g++" \
        "or with uv:     uv python install 3.11 && COOPNET_PYTHON=\$(uv python find 3.11) $0 $level"
    echo "$first"
}

if [ -n "${ROS_DISTRO:-}" ]; then
    base_python=$(find_python_for_ros)
    ros="ROS 2 $ROS_DISTRO, as sourced"
else
    base_python=$(find_python_for_wheels)
    ros="ROS 2 jazzy from wheels"
fi

# ---------------------------------------------------------------- done already?
fingerprint() {
    {
        echo "${ROS_DISTRO:-wheels} $repo $venv ${COOPNET_TORCH_INDEX:-}"
        "$base_python" -c 'import sys; print(sys.version, sys.base_prefix)'
        cd "$repo"
        cat constraints.txt setup.py package.xml scripts/setup.sh scripts/requirements.py \
            scripts/build_tf2_msgs.py scripts/interfaces/tf2_msgs/msg/TFMessage.msg
    } | sha256sum | cut -d' ' -f1
}
stamp=$(fingerprint)
is_done() {  # dev holds all that runtime holds
    local done_level
    for done_level in "$level" dev; do
        if [ "$(cat "$venv/.coopnet-$done_level" 2>/dev/null)" = "$stamp" ]; then return 0; fi
    done
    return 1
}
if is_done; then exit 0; fi

# Only ever clear what is an environment: COOPNET_VENV may name any folder.
if [ -n "$(ls -A "$venv" 2>/dev/null)" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ ! -e "$venv/.lock" ]; then
    die "$venv is not empty and not a Python environment" "Empty it, or set COOPNET_VENV."
fi

# Two scripts at once: the second waits, and then finds the stamp.
mkdir -p "$venv" 2>/dev/null || die "cannot create $venv" "Set COOPNET_VENV to a folder you can write."
exec 9>"$venv/.lock"
if command -v flock >/dev/null; then
    flock 9
    if is_done; then exit 0; fi
fi
started=$SECONDS
rm -f "$venv/.coopnet-$level"
touch "$venv/COLCON_IGNORE"

# ---------------------------------------------------------------- the environment
version=$(python_version "$base_python")
base="${ROS_DISTRO:-wheels} $version $base_python $venv"
is_made() {
    [ "$(cat "$venv/.coopnet-base" 2>/dev/null)" = "$base" ] &&
        "$venv/bin/python" -m pip --version >/dev/null 2>&1
}
has_module() { "$1" -c "import importlib.util as u; raise SystemExit(not u.find_spec('$2'))" 2>/dev/null; }

# Everything that only the system's package manager can bring, in one message, before any download.
packages=()
is_made || has_module "$base_python" ensurepip || has_module "$base_python" virtualenv ||
    command -v uv >/dev/null || packages+=("python$version-venv")
if [ -z "${ROS_DISTRO:-}" ] && ! { is_made && has_module "$venv/bin/python" tf2_msgs; }; then
    has_headers "$base_python" || packages+=("python$version-dev")
    [ -n "${CXX:-$(command -v c++ || command -v g++)}" ] || packages+=(g++)
fi
[ ${#packages[@]} -eq 0 ] || die \
    "this machine lacks: ${packages[*]}" \
    "(environments, and a compiler with Python's headers for tf2_msgs, of which there is no wheel)" \
    "Debian/Ubuntu: sudo apt-get install ${packages[*]}" \
    "Then run this again. Another Python with its headers will do too: COOPNET_PYTHON=/path/to/python3"

venv_options=()
if [ -n "${ROS_DISTRO:-}" ]; then venv_options+=(--system-site-packages); fi
make_venv() {
    local log="$venv/.venv.log"
    say "making $venv with $base_python ($version), $ros"
    if "$base_python" -m venv "${venv_options[@]}" "$venv" >"$log" 2>&1; then return; fi
    # Debian and Ubuntu split ensurepip off into another package; virtualenv and uv bring their own.
    if "$base_python" -m virtualenv -q "${venv_options[@]}" "$venv" >>"$log" 2>&1; then return; fi
    if command -v uv >/dev/null &&
        uv venv -q --seed --allow-existing --python "$base_python" "${venv_options[@]}" "$venv" \
            >>"$log" 2>&1; then
        return
    fi
    cat "$log" >&2
    die "$base_python could not make an environment in $venv" "Its message stands above."
}
if ! is_made; then
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock ! -name COLCON_IGNORE -exec rm -rf {} +
    make_venv
    echo "$base" >"$venv/.coopnet-base"
fi
python=$venv/bin/python

pip_install() {
    local what=$1
    shift
    "$python" -m pip install -qq --disable-pip-version-check --no-input \
        --constraint "$venv/.wanted/constraints.txt" "$@" || die "could not install $what" \
        "pip's own message stands above. Offline? The first run needs a package index; later runs do" \
        "not. Behind a proxy or a mirror: configure pip (pip config list shows what it uses)." \
        "Then run this again: it goes on where it stopped."
}

mkdir -p "$venv/.wanted"
cp "$repo/constraints.txt" "$venv/.wanted/constraints.txt"
pip_install "pip and setuptools" pip "setuptools<80" wheel
prefer_system=()
if [ -n "${ROS_DISTRO:-}" ]; then prefer_system=(--prefer-system); fi
(cd "$repo" && "$python" -W ignore setup.py -q egg_info --egg-base "$venv/.wanted") ||
    die "setup.py cannot be read" "Its message stands above."
"$python" "$repo/scripts/requirements.py" "$level" --egg-info "$venv/.wanted/coopnet_ros.egg-info" \
    --constraints "$repo/constraints.txt" --environment "$venv" --output "$venv/.wanted" \
    "${prefer_system[@]}" || die "scripts/requirements.py failed" "Its message stands above."

# ---------------------------------------------------------------- packages
if [ -z "${ROS_DISTRO:-}" ]; then
    say "installing ROS 2 from wheels"
    pip_install "the ROS wheels" "${ros_wheels[@]}" "${rosidl_needs[@]}"
fi
if [ "$level" = dev ] && [ -n "${COOPNET_TORCH_INDEX:-}" ] && ! has_module "$python" torch; then
    say "installing torch from COOPNET_TORCH_INDEX"
    "$python" -m pip install --quiet --disable-pip-version-check --no-input --no-deps \
        --index-url "$COOPNET_TORCH_INDEX" "$(grep -E '^torch==' "$repo/constraints.txt")" ||
        die "could not install torch from COOPNET_TORCH_INDEX=$COOPNET_TORCH_INDEX" \
            "Check the address, or unset it to take torch from pip's own index."
fi
say "installing the $level packages (the first time, most of the wait is here)"
tools=(colcon-core colcon-ros colcon-test-result colcon-package-selection colcon-output)
if [ "$level" = runtime ]; then tools=(); fi
pip_install "the $level packages" -r "$venv/.wanted/requirements.txt" "${tools[@]}"

# ---------------------------------------------------------------- tf2_msgs
if [ -z "${ROS_DISTRO:-}" ]; then
    say "building tf2_msgs"
    "$python" "$repo/scripts/build_tf2_msgs.py" >"$venv/.tf2_msgs.log" 2>&1 || {
        cat "$venv/.tf2_msgs.log" >&2
        die "tf2_msgs (for TF) could not be built" "The reason stands above; then run this again."
    }
fi

# ---------------------------------------------------------------- this package, and a check
PYTHONWARNINGS=ignore pip_install "this package" --no-deps --no-build-isolation --editable "$repo"
missing=$("$python" -c '
import importlib, sys
for name in sys.argv[1:]:
    try:
        importlib.import_module(name + (".msg" if name.endswith(("_msgs", "_interfaces")) else ""))
    except ImportError as error:
        print(f"{name} ({error})")
' $ros_modules)
if [ -n "$missing" ]; then
    if [ -n "${ROS_DISTRO:-}" ]; then
        die "these ROS modules do not import: $missing" \
            "sudo apt-get install $(for m in $ros_modules; do printf 'ros-%s-%s ' "$ROS_DISTRO" "${m//_/-}"; done)"
    fi
    die "these ROS modules do not import: $missing" "Remove $venv and run this again."
fi
echo "$stamp" >"$venv/.coopnet-$level"
say "$level environment ready in $((SECONDS - started)) s: $venv"
exit 0
}
