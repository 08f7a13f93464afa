#!/bin/sh
# Verifies handshake.pml and move.pml with Spin: the full models must have no error; every fence taken away, and every rule of the
# path change that is broken, must give one.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cd "$work"
cp "$here/handshake.pml" "$here/move.pml" .
model_file=handshake.pml
optimise=-O0

passed=0
failed=0

# check NAME holds|fails DEFINES…
# The wake models are compiled without optimisation: their state spaces are small, the compiler is what takes the time.
check() {
  name=$1
  expected=$2
  shift 2
  rm -f pan pan.* ./*.trail
  found=broken
  detail=
  if spin "$@" -a "$model_file" > spin.out 2>&1 && gcc $optimise -w -DSAFETY -DMEMLIM=1500 -o pan pan.c > gcc.out 2>&1; then
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
    if [ -f "$model_file.trail" ]; then spin "$@" -t -p -g "$model_file" | tail -n 80; fi
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

# ---- the path change ----
model_file=move.pml
optimise='-O1 -DNOREDUCE'   # one process: there is nothing to reduce

move() {
  name=$1
  expected=$2
  shift 2
  check "path change, $name" "$expected" "$@"
}

move "both sides wish, frames lost" holds -DWISHES=1 -DOWISHES=1 -DDROPS=1
move "a MOVE given up twice, messages kept" holds -DWISHES=1 -DTIMEOUTS=2 -DLEASES
move "paths lost and returning" holds -DWISHES=1 -DLOSSES=1 -DRETURNS=1 -DDROPS=1
move "two paths lost" holds -DWISHES=1 -DLOSSES=2
move "memory torn away" holds -DWISHES=1 -DLOSSES=1 -DTORN
move "three paths, refused and given up" holds -DWISHES=1 -DREFUSALS=1 -DPATHS=3 -DTIMEOUTS=1
move "closing in the middle, frames lost" holds -DWISHES=1 -DTIMEOUTS=1 -DCLOSING -DMESSAGES=0 -DDROPS=1
move "closing behind messages that are kept" holds -DWISHES=1 -DCLOSING -DLEASES
move "reset in the middle" holds -DWISHES=1 -DTIMEOUTS=1 -DDESTROYS=1
move "death and a new life at any step" holds -DWISHES=1 -DOWISHES=1 -DDEATHS=1 -DDROPS=1
move "MOVED of an old epoch is obeyed" fails -DWISHES=1 -DTIMEOUTS=1 -DMUTANT_OLD_EPOCHS
move "next is computed before reading stops" fails -DWISHES=1 -DMUTANT_READ_ON
move "the highest forbidden epoch is forgotten" fails -DWISHES=1 -DTIMEOUTS=2 -DMUTANT_NO_FORBID
move "a ring is freed without RETIRE" fails -DWISHES=1 -DLEASES -DMUTANT_FREE_AT_ONCE
move "RETIRE is answered while a message is kept" fails -DWISHES=1 -DLEASES -DMUTANT_DONE_WITH_LEASE
move "RETIRE is answered for the epoch that is proposed" fails -DWISHES=1 -DTIMEOUTS=1 -DDESTROYS=1 -DMUTANT_DONE_FOR_CANDIDATE
move "resumption at the wrong count" fails -DWISHES=1 -DMUTANT_RESUME_AT_BASE
move "nothing is copied" fails -DWISHES=1 -DMUTANT_NO_COPY
move "back to the old epoch after a time limit" fails -DWISHES=1 -DTIMEOUTS=1 -DMUTANT_BACK_TO_OLD
move "CONFIRM is not repeated" fails -DOWISHES=1 -DDROPS=1 -DMUTANT_CONFIRM_ONCE
move "a new life obeys the old one's MOVE" fails -DWISHES=1 -DDEATHS=1 -DMUTANT_OLD_LIFE

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
