#!/usr/bin/env bash
# Zero copy, shown: the instructions of reserve, commit, poll and release of one message, counted by callgrind, differ by
# less than 5 % between 64 bytes and 64 KiB. Last line: N passed, M failed.
#   bash native/test/zero_copy.sh [INCLUDE_DIR]     INCLUDE_DIR holds core/, native unless given
set -uo pipefail
cd "$(dirname "$0")" || exit 1
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
few=1000
many=11000

"${CXX:-g++}" -std=c++20 -O2 -I"${1:-..}" tools/zero_copy.cc -o "$out/zero_copy" || { echo '0 passed, 1 failed'; exit 1; }

# Instructions of one run; start-up and tear-down fall away in the difference of two.
count() {
  valgrind --tool=callgrind --callgrind-out-file=/dev/null "$out/zero_copy" "$1" "$2" 2>&1 |
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p'
}
passed=0
failed=0
verdict() { # title, true or false
  if [ "$2" = 1 ]; then echo "ok $1"; passed=$((passed + 1)); else echo "FAILED $1"; failed=$((failed + 1)); fi
}
declare -A each
for bytes in 64 4096 65536; do
  a=$(count "$bytes" "$few")
  b=$(count "$bytes" "$many")
  [ -n "$a" ] && [ -n "$b" ] || { echo 'callgrind did not count'; echo "$passed passed, $((failed + 1)) failed"; exit 1; }
  each[$bytes]=$(awk "BEGIN { printf \"%.2f\", ($b - $a) / ($many - $few) }")
  echo "$bytes bytes: ${each[$bytes]} instructions a message"
done
for bytes in 4096 65536; do
  apart=$(awk "BEGIN { d = (${each[$bytes]} - ${each[64]}) / ${each[64]} * 100; printf \"%.2f\", d < 0 ? -d : d }")
  verdict "$bytes bytes cost what 64 bytes cost (apart by $apart %)" "$(awk "BEGIN { print ($apart < 5) }")"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
