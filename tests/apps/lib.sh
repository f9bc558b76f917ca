# lib.sh: sourced by every tests/apps/NAME.sh. One program's test, run natively or under csel with the same words.
#
# Theory of operation
#   The script runs again inside a network and a PID namespace of its own. Natively the loopback there is up. Under csel it stays DOWN and there
#   is nothing else: a socket that went to the kernel's stack could reach nobody, so a test that passes has used csel. When the script ends,
#   for whatever reason, the kernel ends everything in the PID namespace: no process outlives its test.
#   MODE=native   the program as it is; every "instance" is 127.0.0.1
#   MODE=preload  LD_PRELOAD=libcsel.so with CSEL_NAME and CSEL_NET in the environment; instances are reached by name
#   MODE=run      csel run --name NAME --net NET -- program
#   app NAME cmd...     runs cmd in instance NAME, bounded by LIMIT seconds (60)
#   serve NAME cmd...   the same in the background, unbounded, output in $W/NAME.log, pid in PID[NAME]
#   await NAME PORT     until something accepts there
#   at NAME             how a client writes the address of NAME (the name itself, or 127.0.0.1 natively)
#   stop NAME           TERM, then KILL after 5 s
#   become USER         from now on programs run as USER (a server that refuses root), if the test is root's
#   fail words...       the reason, the servers' last lines, status 1
# Extra options of csel for one call: OPT="CSEL_IMPAIR=drop=1%" app ...  (assignments, both ways in read them).
set -u
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)
NAME=$(basename "$0" .sh)
MODE=${MODE:-native}
if [ -z "${IN_NS:-}" ]; then
  export IN_NS=1
  for u in "unshare -npf --mount-proc --kill-child" "unshare -rnpf --mount-proc --kill-child"; do
    $u true 2>/dev/null && exec $u "$BASH" "$0" "$@"
  done
  echo "FAIL $NAME $MODE: no namespaces to be had (unshare -np, or -rnp without root)"; exit 1
fi
PATH=/usr/sbin:/sbin:/usr/bin:/bin:$PATH
[ "$MODE" != native ] || ip link set lo up || { echo "FAIL $NAME $MODE: no loopback"; exit 1; }
LIB=${CSEL_LIB:-$ROOT/target/release/libcsel.so} BIN=${CSEL_BIN:-$ROOT/target/release/csel} TB=${CSEL_TESTBIN:-$ROOT/target/release}
[ -x "$TB/peer" ] || { echo "FAIL $NAME $MODE: $TB/peer is missing, run make build"; exit 1; }
[ "$MODE" = native ] || for f in "$LIB" "$BIN"; do [ -e "$f" ] || { echo "FAIL $NAME $MODE: $f is missing, run make build"; exit 1; }; done
DATA=${DATA:-$ROOT/target/apps}; mkdir -p "$DATA"
unset CSEL_LIB CSEL_BIN CSEL_TESTBIN LD_PRELOAD http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy NO_PROXY
PEER=$TB/peer
W=$(mktemp -d "${TMPDIR:-/tmp}/csel-app-$NAME.XXXXXX"); chmod 755 "$W"; trap 'rm -rf "$W"' EXIT
export XDG_RUNTIME_DIR=$W/run CSEL_NET=t-$NAME HOME=$W; mkdir -m 700 "$XDG_RUNTIME_DIR"
cd "$W" || exit 1
ulimit -n "$(ulimit -Hn)"
declare -A PID=()
BECOME=()
LIMIT=${LIMIT:-60}

# Sets CMD to what runs "$@" in instance $1.
as() {
  local n=$1; shift
  case $MODE in
    native) CMD=("${BECOME[@]}" "$@") ;;
    preload) CMD=("${BECOME[@]}" env LD_PRELOAD="$LIB" CSEL_NAME="$n" ${OPT:-} "$@") ;;
    run) CMD=("${BECOME[@]}" env ${OPT:-} "$BIN" run --name "$n" --net "$CSEL_NET" -- "$@") ;;
    *) echo "FAIL $NAME: no mode '$MODE'"; exit 2 ;;
  esac
}
app() { local CMD; as "$@"; timeout -k 5 "${LIMIT:-60}" "${CMD[@]}"; }
serve() { local CMD; as "$@"; "${CMD[@]}" >"$W/$1.log" 2>&1 </dev/null & PID[$1]=$!; }
at() { if [ "$MODE" = native ]; then echo 127.0.0.1; else echo "$1"; fi; }
stop() {
  local p=${PID[$1]:-}; [ -n "$p" ] || return 0
  kill -TERM "$p" 2>/dev/null
  for _ in $(seq 100); do kill -0 "$p" 2>/dev/null || break; sleep 0.05; done
  kill -KILL "$p" 2>/dev/null; wait "$p" 2>/dev/null; unset "PID[$1]"
}
await() { LIMIT=40 app "wait-$1" "$PEER" wait "$(at "$1")" "$2" 30 >"$W/await.log" 2>&1 || fail "$1 does not accept on port $2: $(tail -3 "$W/await.log")"; }
become() {
  if setpriv --reuid "$1" --regid "$(id -g "$1")" --clear-groups true 2>/dev/null; then
    BECOME=(setpriv --reuid "$1" --regid "$(id -g "$1")" --clear-groups)
    chown -R "$1" "$W"
    # What was built may lie where only root looks.
    mkdir "$W/csel"; cp "$LIB" "$BIN" "$PEER" "$W/csel/" 2>/dev/null; LIB=$W/csel/$(basename "$LIB") BIN=$W/csel/$(basename "$BIN") PEER=$W/csel/peer
    chmod 755 "$W/csel" "$W/csel"/*
  else # not root outside: a user namespace within ours, where we are somebody else
    BECOME=(unshare -U --map-user=1000 --map-group=1000)
  fi
}
fail() {
  echo "FAIL $NAME $MODE: $*"
  local f; for f in "$W"/*.log; do [ -s "$f" ] && { echo "  -- $(basename "$f"):"; tail -n 15 "$f" | cut -c1-300 | sed 's/^/     /'; }; done
  # What csel itself knows, if it can still say it.
  [ "$MODE" = native ] || { echo "  -- csel ps, csel ss:"; timeout 5 "$BIN" ps --net "$CSEL_NET" 2>&1 | head -20; timeout 5 "$BIN" ss --net "$CSEL_NET" 2>&1 | head -30; } | sed 's/^/     /'
  exit 1
}
# What the kernel's IP stack was asked to do in this namespace: packets sent, and sends and connects that found no route (a name query too).
# Since nothing is up here under csel, one connect or one query outside csel shows. A test that means to use the kernel says KERNEL=yes.
leaked() {
  awk '$1 == "Ip:" || $1 == "Udp:" || $1 == "Tcp:" { if ($1 in head) { n = split(head[$1], h); for (i = 2; i <= n; i++) if (h[i] ~ /^(OutRequests|OutNoRoutes|OutDatagrams|ActiveOpens)$/) sum += $i } else head[$1] = $0 }
    $1 ~ /^(Ip6OutRequests|Ip6OutNoRoutes|Udp6OutDatagrams)$/ { sum += $2 } END { print sum + 0 }' /proc/net/snmp /proc/net/snmp6
}
pass() {
  local n=0
  if [ "$MODE" != native ] && [ -z "${KERNEL:-}" ]; then n=$(leaked); [ "$n" = 0 ] || fail "$n packets, connects or queries were left to the kernel's IP stack: $(grep -E '^(Ip|Tcp|Udp):' /proc/net/snmp | tr '\n' ' ')"; fi
  echo "ok $NAME $MODE${*:+: $*}"; exit 0
}
# A file of SIZE MiB with known content, made once, and its sha256 beside it.
big() {
  local f=$DATA/$1mib
  if [ ! -s "$f.sha" ]; then
    head -c "$1M" /dev/zero | openssl enc -aes-128-ctr -nosalt -K 000102030405060708090a0b0c0d0e0f -iv 00 2>/dev/null >"$f.$$" && mv "$f.$$" "$f"
    sha256sum <"$f" | cut -d' ' -f1 >"$f.sha"
  fi
  echo "$f"
}
sha() { sha256sum <"$1" | cut -d' ' -f1; }
same() { [ "$(sha "$1")" = "$(cat "$2.sha")" ] || fail "$3: the file came through changed ($(stat -c %s "$1") of $(stat -c %s "$2") bytes)"; }
