#!/bin/bash
# lint.sh: the house rules that neither rustfmt nor clippy knows. Prints each breach as FILE: what, ends 1 if there is any.
#
#  - `unsafe` only in the rooms that may hold it: csel/src/{gate,arena,sync}*, the shim, the loader's ld and exec, tests
#  - the core exports no C symbol and calls no libc function
#  - every source file opens with a `//!` head (theory of operation), and a mod.rs or lib.rs with one of three lines at least
#  - files of 800 lines at most (600 is the aim); no utils/helpers/common/misc/manager
#  - every make target that the README names exists, and every file or script it names by path
set -u
cd "$(dirname "$0")/.." || exit 2
bad=0; say() { echo "lint: $*"; bad=$((bad + 1)); }
sources() { git ls-files -- "$@" | grep '\.rs$'; }

for f in $(sources); do
  case $f in
    csel/src/gate* | csel/src/arena* | csel/src/sync* | shim/* | loader/src/ld* | loader/src/exec.rs | tests/* | csel/derive/*) ;;
    *) grep -nE '\bunsafe\b' "$f" | grep -vE '^[0-9]+: *(//|\*)|unsafe_code|undocumented_unsafe|`unsafe|"[^"]*unsafe' | head -3 | while read -r l; do echo "$f:$l"; done |
         { out=$(cat); [ -z "$out" ] || { echo "lint: unsafe outside its rooms:"; echo "$out"; exit 1; }; } || bad=$((bad + 1)) ;;
  esac
  head -n 40 "$f" | grep -q '^//!' || say "$f: no //! head"
  case $f in
    */mod.rs | csel/src/lib.rs | shim/src/lib.rs)
      [ "$(grep -c '^//!' "$f")" -ge 3 ] || say "$f: the //! head is no theory of operation (3 lines at least)" ;;
  esac
  n=$(wc -l <"$f"); [ "$n" -le 800 ] || say "$f: $n lines (at most 800)"
  case $(basename "$f" .rs) in util | utils | helper | helpers | common | misc | manager) say "$f: a name that says nothing" ;; esac
done

# The core is pure: no exported symbols, no libc calls (types and constants only: what is lower-case and called is a function).
for f in $(sources csel/src); do
  grep -nE '#\[(unsafe\()?no_mangle' "$f" && say "$f: the core exports no C symbol"
  grep -nE '\blibc::[a-z][a-z0-9_]*\(' "$f" | grep -vE '^[0-9]+: *//|libc::(c_|CMSG|FD_|W[A-Z])' && say "$f: the core calls no libc function"
  case $f in csel/src/net/tcp/flow.rs | csel/src/arena* | csel/src/instance.rs) ;; *) # (the last two only for sizes and the marker)
    grep -nE '\bsmoltcp::(iface|socket)\b' "$f" | grep -vE '^[0-9]+: *//' && say "$f: only net::tcp::flow names smoltcp::{iface,socket}" ;;
  esac
done
head -n 60 csel/src/lib.rs | grep -q '#!\[no_std\]\|cfg_attr(not(.*no_std' || say "csel/src/lib.rs: not no_std"

# The README's words hold: targets and paths.
targets=$(sed -n 's/^\([a-z]*\):.*/\1/p' Makefile)
for t in $(grep -oE '`make [a-z]+' README.md | awk '{print $2}' | sort -u); do
  grep -qx "$t" <<<"$targets" || say "README.md: no target '$t' in the Makefile"
done
for p in $(grep -oE '`(tests|csel|shim|loader|c-headers|docs)/[A-Za-z0-9_./-]+`' README.md | tr -d '`' | sort -u); do
  [ -e "$p" ] || say "README.md: no such path $p"
done
for f in $(git ls-files 'tests/*.sh' 'tests/apps/*.sh' .ci/run); do
  [ -x "$f" ] || case $f in *lib.sh) ;; *) say "$f: not executable" ;; esac
  bash -n "$f" || say "$f: does not parse"
done
[ $bad = 0 ] && echo "lint: house rules hold"
[ $bad = 0 ]
