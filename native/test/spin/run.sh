#!/bin/sh
# Verifies handshake.pml with Spin: the full model must have no error, and every fence taken away must give one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work"
cp "$here/handshake.pml" .

passed=0
failed=0

# check NAME holds|fails DEFINES…
# Compiled without optimisation: the state spaces are small, the compiler is what takes the time.
check() {
  name=$1
  expected=$2
  shift 2
  rm -f pan pan.* ./*.trail
  found=broken
  detail=
  if spin "$@" -a handshake.pml > spin.out 2>&1 && gcc -O0 -w -DSAFETY -DMEMLIM=1500 -o pan pan.c > gcc.out 2>&1; then
    ./pan -m100000 > pan.out 2>&1 || true
    if grep -q 'errors: 0' pan.out && ! grep -Eq 'max search depth too small|search is incomplete|Search not completed|memory limit' pan.out; then
      found=holds
    elif grep -Eq 'errors: [1-9]' pan.out && grep -Eq 'invalid end state|assertion violated' pan.out; then
      found=fails
    fi
    detail=$(sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1 states/p' pan.out)
    why=$(sed -n 's/^pan:1: \(.*\) (at depth.*/\1/p' pan.out)
    if [ -n "$why" ]; then detail="$detail, $why"; fi
  fi
  if [ "$found" = "$expected" ]; then
    passed=$((passed + 1))
    echo "ok spin $name: $found ($detail)"
  else
    failed=$((failed + 1))
    echo "FAILED spin $name: $found, expected: $expected ($detail)"
    cat spin.out gcc.out pan.out 2> /dev/null | tail -n 40
    if [ -f handshake.pml.trail ]; then spin "$@" -t -p -g handshake.pml | tail -n 80; fi
  fi
}

for model in TSO PSO; do
  check "data wake, $model" holds -D$model
  check "data wake, three records, $model" holds -D$model -DITEMS=3
  check "data wake, $model, without fence_park" fails -D$model -DNO_FENCE_PARK
  check "data wake, $model, without fence_published" fails -D$model -DNO_FENCE_PUBLISHED
  check "data wake, $model, without fence_sleep" fails -D$model -DNO_FENCE_SLEEP
  check "data wake, $model, without fence_bell" fails -D$model -DNO_FENCE_BELL
  check "space wake, $model" holds -D$model -DSPACE
  check "space wake, three releases, $model" holds -D$model -DSPACE -DITEMS=3
  check "space wake, $model, without fence_want_space" fails -D$model -DSPACE -DNO_FENCE_WANT_SPACE
  check "space wake, $model, without fence_released" fails -D$model -DSPACE -DNO_FENCE_RELEASED
  check "space wake, $model, without fence_sleep" fails -D$model -DSPACE -DNO_FENCE_SLEEP
  check "space wake, $model, without fence_bell" fails -D$model -DSPACE -DNO_FENCE_BELL
done
check "data wake, PSO, with a relaxed ring_bell" fails -DPSO -DRELAXED_BELL

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
