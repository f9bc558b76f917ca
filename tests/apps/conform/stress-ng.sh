#!/bin/bash
# stress-ng.sh [ROW...]: stress-ng's socket, poll, epoll and process stressors, one at a time, each for a number of operations and at most a minute, with --verify.
# Interface as ../../../../shared/suites: WRAP, OUT; verdicts "PASS name" in $OUT/stress-ng.tests. stress-ng exits with 0 (passed), 3 or 4 (not to be had
# here: skipped), 2 (a stressor failed).
NAME=stress-ng; OUT=${OUT:-$SUITES/logs}; mkdir -p "$OUT"
: >"$OUT/$NAME.tests"; : >"$OUT/$NAME.log"
# name: arguments
rows() {
  cat <<'R'
sock-v4: --sock 2 --sock-ops 400 --sock-domain ipv4
sock-v6: --sock 2 --sock-ops 400 --sock-domain ipv6
sock-unix: --sock 2 --sock-ops 400 --sock-domain unix
sock-sendmsg: --sock 2 --sock-ops 400 --sock-opts sendmsg
sock-sendmmsg: --sock 2 --sock-ops 400 --sock-opts sendmmsg
sock-random: --sock 2 --sock-ops 400 --sock-opts random
sock-nodelay: --sock 2 --sock-ops 400 --sock-nodelay
sockmany: --sockmany 1 --sockmany-ops 3
sockpair: --sockpair 2 --sockpair-ops 20000
sockfd: --sockfd 1 --sockfd-ops 2000
sockabuse: --sockabuse 1 --sockabuse-ops 200
sockdiag: --sockdiag 1 --sockdiag-ops 200
udp-v4: --udp 2 --udp-ops 20000 --udp-domain ipv4
udp-v6: --udp 2 --udp-ops 20000 --udp-domain ipv6
udp-lite: --udp 1 --udp-ops 5000 --udp-lite
udp-gro: --udp 1 --udp-ops 5000 --udp-gro
udp-flood-v4: --udp-flood 2 --udp-flood-ops 20000 --udp-flood-domain ipv4
udp-flood-v6: --udp-flood 2 --udp-flood-ops 20000 --udp-flood-domain ipv6
rawsock: --rawsock 1 --rawsock-ops 1000
rawudp: --rawudp 1 --rawudp-ops 1000
icmp-flood: --icmp-flood 1 --icmp-flood-ops 1000
ping-sock: --ping-sock 1 --ping-sock-ops 1000
poll: --poll 2 --poll-ops 5000
epoll-v4: --epoll 1 --epoll-ops 2000 --epoll-domain ipv4
epoll-v6: --epoll 1 --epoll-ops 2000 --epoll-domain ipv6
epoll-unix: --epoll 1 --epoll-ops 2000 --epoll-domain unix
fork: --fork 2 --fork-ops 400
vfork: --vfork 2 --vfork-ops 400
clone: --clone 1 --clone-ops 200
daemon: --daemon 1 --daemon-ops 100
exec: --exec 1 --exec-ops 100
dup: --dup 1 --dup-ops 2000
close: --close 1 --close-ops 500
fcntl: --fcntl 1 --fcntl-ops 500
sendfile: --sendfile 1 --sendfile-ops 500
splice: --splice 1 --splice-ops 2000
sigio: --sigio 1 --sigio-ops 500
netdev: --netdev 1 --netdev-ops 100
netlink-task: --netlink-task 1 --netlink-task-ops 100
zombie: --zombie 1 --zombie-ops 200
wait: --wait 1 --wait-ops 200
pthread: --pthread 1 --pthread-ops 500
R
}
W=$(mktemp -d); cd "$W" || exit 2
chmod 1777 "$W"
while IFS=: read -r name args; do
  [ $# = 0 ] || case " $* " in *" $name "*) ;; *) continue ;; esac
  timeout -k 5 "${T1:-90}" $WRAP stress-ng --timeout 60 --verify --temp-path "$W" $args >"$OUT/$NAME.one" 2>&1 </dev/null; rc=$?
  { echo "=== $name rc=$rc"; cat "$OUT/$NAME.one"; } >>"$OUT/$NAME.log"
  v=FAIL
  case $rc in 0) v=PASS; grep -q ' 0 passed\|skipped: [1-9]\|stressor will be skipped\|skipping' "$OUT/$NAME.one" && v=SKIP ;; 3 | 4) v=SKIP ;; esac
  echo "$v $name rc=$rc" >>"$OUT/$NAME.tests"
done < <(rows)
rm -f "$OUT/$NAME.one"; cd /; rm -rf "$W"
c() { grep -cE "^$1 " "$OUT/$NAME.tests"; }
echo "$NAME passed=$(c PASS) failed=$(c FAIL) skipped=$(c SKIP)"
