#!/bin/bash
# symbols.sh [--write]: what libcsel.so exports is what its table says, and nothing else; it needs nothing but glibc; and docs/support.md is
# that table (--write makes it so).
#
# `csel symbols` prints the table, one row a line: NAME FAMILY full|partial|pass [cancels] WORDS. nm -D says what the linker really
# exported. A name in one and not in the other is an error. Names that begin with csel_ are the C API's (c-headers/csel.h, headers.sh).
set -eu
cd "$(dirname "$0")/.."
T=${CARGO_TARGET_DIR:-target}
lib=${CSEL_LIB:-$T/release/libcsel.so}; bin=${CSEL_BIN:-$T/release/csel}
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
nm -D --defined-only "$lib" | awk '$2 ~ /[TWiDBR]/ {print $3}' | sed 's/@.*//' | sort -u >"$tmp/has"
if grep -E '^_ZN|^_R|^rust_' "$tmp/has"; then echo "symbols: Rust names are exported"; exit 1; fi
readelf -d "$lib" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' >"$tmp/needs"
if grep -vE '^(libc\.so\.6|libgcc_s\.so\.1|ld-linux.*|libm\.so\.6|libpthread.*|libdl.*)$' "$tmp/needs"; then echo "symbols: needs more than glibc"; exit 1; fi
if ! CSEL_LIB=$lib "$bin" symbols >"$tmp/table" 2>"$tmp/err"; then echo "symbols: csel symbols failed: $(cat "$tmp/err")"; exit 1; fi
awk '{print $1}' "$tmp/table" | sort -u >"$tmp/said"
comm -23 "$tmp/said" "$tmp/has" | sed 's/^/in the table, not exported: /' >"$tmp/diff"
comm -13 "$tmp/said" "$tmp/has" | grep -v '^csel_' | sed 's/^/exported, not in the table: /' >>"$tmp/diff" || true
cat "$tmp/diff"
[ ! -s "$tmp/diff" ]
{
  echo "# What is as Linux has it, and what is not"
  echo
  echo "Made by \`tests/symbols.sh --write\` from the shim's own table (\`csel symbols\`), and checked by \`make symbols\`. full: as Linux. partial: the words say"
  echo "what differs. pass: handed to libc, hooked only to keep the books. A name that is not here is libc's and the kernel's."
  for family in $(awk '{print $2}' "$tmp/table" | awk '!seen[$0]++'); do
    echo; echo "## $family"; echo
    for status in full pass; do
      names=$(awk -v f="$family" -v s="$status" '$2 == f && $3 == s && NF <= ($4 == "cancels" ? 4 : 3) {printf "%s%s", n++ ? ", " : "", $1}' "$tmp/table")
      [ -z "$names" ] || { echo "$status: $names" | fold -s -w 150 | sed 's/ *$//'; echo; }
    done
    awk -v f="$family" '$2 == f {w = 4; if ($4 == "cancels") w = 5; if (NF >= w) {l = $1 " (" $3 "):"; for (i = w; i <= NF; i++) l = l " " $i; print "- " l}}' "$tmp/table"
  done
} | cat -s >"$tmp/support.md"
if [ "${1:-}" = --write ]; then cp "$tmp/support.md" docs/support.md; fi
cmp -s "$tmp/support.md" docs/support.md || { echo "symbols: docs/support.md is not the table: run tests/symbols.sh --write"; diff docs/support.md "$tmp/support.md" | head -20; exit 1; }
echo "ok symbols: $(wc -l <"$tmp/has") exported, as the table and docs/support.md say"
