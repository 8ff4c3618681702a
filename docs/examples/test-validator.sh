#!/bin/sh
# Tests a validator's project as a gateway would judge it, and says what a push would do where a gateway is named. Runs in
# the project's folder; `eye` is the program of the gateway's release. Exit code 0, or 1 with all differences in test.json.
set -eu
eye validator doctor
eye validator test --json > test.json
eye validator check
if [ -n "${EYE_GATEWAY-}" ]; then
    eye validator push --dry-run
fi
