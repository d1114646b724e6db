#!/usr/bin/env bash
# Everything that has to hold: types, the direction of imports, `colcon build`, and `colcon test`,
# where the linters are tests too.
# Usage: scripts/test.sh [options for pytest, such as -k name or -m "not launch"]
# The last line is the result of the tests; the exit status is 0 only if every step passed and at
# least one test ran.
set -uo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${COOPNET_VENV:-$repo/.venv}
"$repo/scripts/setup.sh" dev || exit 1
unset _ROS_WHEELS_BOOTSTRAP_COMPLETE
cd "$repo"
python=$venv/bin/python

# Tests talk among themselves, not with other robots on the network, and leave cores to others.
export ROS_AUTOMATIC_DISCOVERY_RANGE=${ROS_AUTOMATIC_DISCOVERY_RANGE:-LOCALHOST}
# Humble ignores that variable, and later ones complain about this one.
if [ "${ROS_DISTRO:-}" = humble ]; then export ROS_LOCALHOST_ONLY=${ROS_LOCALHOST_ONLY:-1}; fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# From the environment even where another colcon is installed: it writes the scripts' interpreter.
colcon() { "$python" -c 'import sys; from colcon_core.command import main; sys.exit(main())' "$@"; }

{ # Bash reads this group to its end before it starts: the file may change while it runs.
failed=()
step() {
    local name=$1 started=$SECONDS
    shift
    printf '\n== %s\n' "$name"
    if "$@"; then
        printf -- '-- %s: ok (%d s)\n' "$name" $((SECONDS - started))
    else
        printf -- '-- %s: FAILED (%d s)\n' "$name" $((SECONDS - started))
        failed+=("$name")
    fi
}

step "mypy" "$python" -m mypy
step "import-linter" "$venv/bin/lint-imports"
paths=(--base-paths . --packages-select coopnet_ros)
step "colcon build" colcon build "${paths[@]}" --event-handlers console_stderr-

# colcon says OK when it finds no test, so the result is read from the report.
report=build/coopnet_ros/pytest.xml
rm -f "$report"
# colcon strips the leading space, which keeps it from reading pytest's options as its own.
step "colcon test" colcon test "${paths[@]}" --python-testing pytest \
    --return-code-on-test-failure --event-handlers console_direct+ console_stderr- \
    --pytest-args "${@/#/ }"
summary=$("$python" scripts/test_summary.py "$report") || failed+=("tests")

if [ ${#failed[@]} -gt 0 ]; then
    printf '\nFAILED steps: %s\n' "$(IFS=,; echo "${failed[*]}")"
else
    printf '\nall steps passed\n'
fi
echo "$summary"
[ ${#failed[@]} -eq 0 ]
exit
}
