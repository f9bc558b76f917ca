#!/bin/bash
# symbols.sh: what libcsel.so exports is what its table says, and nothing else; and it needs nothing but glibc.
#
# The library prints its own table when asked (`csel symbols`, one name a line); nm -D says what the linker really exported. A name in one
# and not in the other is an error. Names that begin with csel_ are the C API's (c-headers/csel.h, checked by headers.sh).
set -eu
cd "$(dirname "$0")/.."
lib=${CSEL_LIB:-target/release/libcsel.so}; bin=${CSEL_BIN:-target/release/csel}
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
nm -D --defined-only "$lib" | awk '$2 ~ /[TWiDBR]/ {print $3}' | sed 's/@.*//' | sort -u >"$tmp/has"
if grep -E '^_ZN|^_R|^rust_' "$tmp/has"; then echo "symbols: Rust names are exported"; exit 1; fi
readelf -d "$lib" | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p' >"$tmp/needs"
if grep -vE '^(libc\.so\.6|libgcc_s\.so\.1|ld-linux.*|libm\.so\.6|libpthread.*|libdl.*)$' "$tmp/needs"; then echo "symbols: needs more than glibc"; exit 1; fi
if ! "$bin" symbols >"$tmp/table" 2>"$tmp/err"; then echo "symbols: csel symbols failed: $(cat "$tmp/err")"; exit 1; fi
awk '{print $1}' "$tmp/table" | sort -u >"$tmp/said"
comm -23 "$tmp/said" "$tmp/has" | sed 's/^/in the table, not exported: /' >"$tmp/diff"
comm -13 "$tmp/said" "$tmp/has" | grep -v '^csel_' | sed 's/^/exported, not in the table: /' >>"$tmp/diff" || true
cat "$tmp/diff"
[ ! -s "$tmp/diff" ]
echo "ok symbols: $(wc -l <"$tmp/has") exported, as the table says"
