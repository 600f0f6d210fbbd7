#!/bin/bash
# Runs govulncheck, whose path is the argument, on the shipped module.
#
# The vulnerability database is on the network. Where it can't be reached
# nothing was checked, and this says so: no failure of the code, and no pass.
set -uo pipefail
out=$("$1" ./... 2>&1)
status=$?
case $status in
0) echo "govulncheck: no known vulnerability is reachable" ;;
*)
  if grep -q 'fetching vulnerabilities' <<<"$out"; then
    echo "govulncheck: NOT RUN, its database does not answer: ${out##*: }"
    exit 0
  fi
  echo "$out"
  exit "$status"
  ;;
esac
