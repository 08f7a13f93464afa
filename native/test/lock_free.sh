#!/usr/bin/env bash
# Lock-free, shown: what the compiler makes of the data path (tools/lock_free.cc) holds no atomic read-modify-write, no
# lock but the full fence, and no call but memcpy and the growth of a private list. Last line: N passed, M failed.
#   bash native/test/lock_free.sh [INCLUDE_DIR]     INCLUDE_DIR holds core/, native unless given
set -uo pipefail
cd "$(dirname "$0")" || exit 1
include=${1:-..}
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT
passed=0
failed=0
check() { # title, offending lines
  if [ -z "$2" ]; then
    echo "ok $1"
    passed=$((passed + 1))
  else
    echo "FAILED $1"
    echo "$2" | head -20 | sed 's/^/  /'
    failed=$((failed + 1))
  fi
}

# architecture, compiler, objdump, what an atomic read-modify-write looks like there
inspect() {
  local arch=$1 compiler=$2 objdump=$3 forbidden=$4
  # no outlined atomics: on arm64 they would hide in library calls
  local flags=(-std=c++20 -O2 -fno-exceptions -I"$include")
  [ "$arch" = arm64 ] && flags+=(-mno-outline-atomics)
  if ! "$compiler" "${flags[@]}" -c tools/lock_free.cc -o "$out/$arch.o"; then
    check "$arch: compiles" "$compiler failed"
    return
  fi
  "$objdump" -dr --no-show-raw-insn "$out/$arch.o" >"$out/$arch.s"
  local steps wanted
  wanted=$(grep -c '^STEP ' tools/lock_free.cc)
  steps=$(grep -c '<step_.*>:$' "$out/$arch.s")
  check "$arch: $wanted steps of the data path are there" "$([ "$steps" -eq "$wanted" ] || echo "found $steps")"
  check "$arch: no atomic read-modify-write" "$(grep -nE "$forbidden" "$out/$arch.s")"
  if [ "$arch" = x86-64 ]; then
    # the full fence is `lock or $0` on the own stack (gcc) or mfence; nothing else carries a lock prefix
    check "$arch: no lock but the fence" "$(grep -nE '\block\b' "$out/$arch.s" | grep -vE 'lock or[lq]? +\$0x0,(0x[0-9a-f]+|-0x[0-9a-f]+)?\(%[re]sp\)')"
    # An exchange with memory locks without saying so; between registers it does not.
    check "$arch: no exchange with memory" "$(grep -nE '\bxchg' "$out/$arch.s" | grep '(' )"
    check "$arch: there is a fence to be found" "$(grep -qE 'lock or|mfence' "$out/$arch.s" || echo 'none: is this the data path?')"
    check "$arch: no system call" "$(grep -nE '\b(syscall|sysenter|int +\$0x80)\b' "$out/$arch.s")"
  else
    check "$arch: there is a fence to be found" "$(grep -qE 'dmb[[:space:]]+ish$' "$out/$arch.s" || echo 'none: is this the data path?')"
    check "$arch: no system call" "$(grep -nE '\bsvc\b' "$out/$arch.s")"
  fi
  # Calls leave the object file through relocations, to these only: bytes, and Consumer::grow (when more records are lent
  # than ever before, at most capacity / 8 of them).
  check "$arch: no call but memcpy and growth" "$(
    grep -oE 'R_[A-Z0-9_]+[[:space:]]+[A-Za-z_][A-Za-z0-9_]*' "$out/$arch.s" | awk '{ print $2 }' | sort -u |
      grep -vE '^(memcpy|memmove|memset|_Znwm|_ZdlPv|_ZdlPvm|_ZSt20__throw_length_errorPKc|_ZSt17__throw_bad_allocv|_ZSt28__throw_bad_array_new_lengthv|_ZN6vmring|step_|__stack_chk_fail)'
  )"
}

arm_words='\b(ldxr|ldaxr|stxr|stlxr|ldxp|ldaxp|stxp|stlxp|cas[a-z]*|swp[a-z]*|ldadd[a-z]*|ldset[a-z]*|ldclr[a-z]*|ldeor[a-z]*|stadd[a-z]*|stset[a-z]*)\b|__aarch64_'
if [ "$(uname -m)" = aarch64 ]; then
  inspect arm64 "${CXX:-g++}" objdump "$arm_words"
else
  inspect x86-64 "${CXX:-g++}" objdump '\b(cmpxchg|xadd)'
  if command -v aarch64-linux-gnu-g++ >/dev/null; then
    inspect arm64 aarch64-linux-gnu-g++ aarch64-linux-gnu-objdump "$arm_words"
  else
    echo 'not looked at: arm64 (no aarch64-linux-gnu-g++)'
  fi
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
