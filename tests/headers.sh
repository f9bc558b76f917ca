#!/bin/bash
# headers.sh: c-headers/csel.h compiles alone as C and C++, and every csel_ function it declares is exported by libcsel.so, and no other is.
set -eu
cd "$(dirname "$0")/.."
lib=${CSEL_LIB:-${CARGO_TARGET_DIR:-target}/release/libcsel.so}; h=c-headers/csel.h
tmp=$(mktemp -d); trap 'rm -rf "$tmp"' EXIT
cc -std=c11 -Wall -Wextra -Werror -fsyntax-only -x c "$h"
if command -v c++ >/dev/null; then c++ -Wall -Werror -fsyntax-only -x c++ "$h"; fi
cc -E -P -x c "$h" | grep -oE '\bcsel_[a-z0-9_]+ *\(' | tr -d ' (' | sort -u >"$tmp/said"
nm -D --defined-only "$lib" | awk '{print $3}' | grep '^csel_' | sed 's/@.*//' | sort -u >"$tmp/has" || true
diff "$tmp/said" "$tmp/has" >"$tmp/diff" || { echo "headers: declared (<) against exported (>):"; cat "$tmp/diff"; exit 1; }
echo "ok headers: $(wc -l <"$tmp/said") functions declared and exported"
