#!/bin/bash
# Shells and inetd-style servers: bash's /dev/tcp as client, bash loops around nc as server, socat EXEC of cat and of a shell, and dropbear with its
# client: a command, a file through it, a forwarded port.
# limit: 150
. "$(dirname "$0")/lib.sh"
f=$(big 8)
# inetd-style: the connection is the program's standard streams.
serve cat socat TCP-LISTEN:7,reuseaddr,fork EXEC:cat
serve sh socat TCP-LISTEN:8023,reuseaddr,fork EXEC:"bash -s"
serve sys socat TCP-LISTEN:8024,reuseaddr,fork SYSTEM:'read a; echo "got $a"; exec cat'
await cat 7; await sh 8023; await sys 8024
# bash as client: its own redirection to a socket, several at once, read and write, closed by exec.
cat >client.bash <<'B'
set -e
exec 3<>/dev/tcp/$1/7
echo "one two" >&3; read -r a b <&3; [ "$a $b" = "one two" ]
exec 4<>/dev/tcp/$1/7; exec 5<>/dev/tcp/$1/7
for n in 1 2 3 4 5 6 7 8 9 10; do echo "$n" >&4; read -r x <&4; [ "$x" = "$n" ]; echo "-$n" >&5; read -r y <&5; [ "$y" = "-$n" ]; done
# A subshell and a pipeline have it too.
(echo sub >&3); read -r x <&3; [ "$x" = sub ]
echo piped | cat >&3; head -c 6 <&3 | { read -r x; [ "$x" = piped ]; }
exec 3>&- 4>&- 5>&-
# A connection that is refused says so.
! (exec 3<>/dev/tcp/$1/9) 2>/dev/null
echo fine
B
[ "$(app c1 bash client.bash "$(at cat)")" = fine ] || fail "bash and /dev/tcp"
[ "$(printf 'hello\nrest\n' | app c2 socat -t 10 - "TCP:$(at sys):8024")" = $'got hello\nrest' ] || fail "socat SYSTEM: the shell and then cat on one connection"
[ "$(echo 'for i in 1 2 3; do echo -n $i; done; echo' | app c3 socat -t 10 - "TCP:$(at sh):8023")" = 123 ] || fail "a shell behind socat"
LIMIT=50 app c4 socat -t 20 - "TCP:$(at cat):7" <"$f" | cmp -s - "$f" || fail "8 MiB through EXEC:cat"
# The shell behind socat reaches out itself: it is of the same instance.
[ "$(echo "exec 3<>/dev/tcp/$(at cat)/7; echo out >&3; head -n 1 <&3" | app c5 socat -t 10 - "TCP:$(at sh):8023")" = out ] || fail "a shell behind socat that connects"
# bash as server: a loop around nc, each turn a process and a listener.
cat >server.bash <<'B'
for n in 1 2 3 4 5; do
  coproc NC { exec nc -l -N "$1" 9000; }
  read -r line <&"${NC[0]}"; echo "$n: $line" >&"${NC[1]}"
  eval "exec ${NC[1]}>&-"; wait
done
echo "served 5"
B
any=$([ "$MODE" = native ] && echo 127.0.0.1 || echo 0.0.0.0)
serve loop bash server.bash "$any"
for n in 1 2 3 4 5; do
  for try in $(seq 100); do got=$(LIMIT=20 app c6 bash -c 'exec 3<>"/dev/tcp/$1/9000" && echo "turn $2" >&3 && cat <&3' sh "$(at loop)" $n 2>>c6.log); [ -n "$got" ] && break; sleep 0.1; done
  [ "$got" = "$n: turn $n" ] || fail "nc in a loop of bash: '$got' for turn $n"
done
for _ in $(seq 100); do grep -q 'served 5' loop.log && break; sleep 0.1; done
grep -q 'served 5' loop.log || fail "the loop of bash did not end"
# dropbear: its own server and client.
mkdir -m 700 .ssh; dropbearkey -t ed25519 -f host >/dev/null 2>&1 && dropbearkey -t ed25519 -f id >key.out 2>&1 || fail "dropbearkey"
grep ^ssh- key.out >.ssh/authorized_keys; chmod 600 .ssh/authorized_keys
# dropbear looks for the keys in the home directory of the password file.
home=$(getent passwd "$(id -un)" | cut -d: -f6)
mount --bind "$W" "$home" 2>/dev/null || mount -t tmpfs none "$home" 2>/dev/null || fail "cannot give $home another content for the test"
[ -e "$home/.ssh/authorized_keys" ] || { mkdir -m 700 "$home/.ssh"; cp .ssh/authorized_keys "$home/.ssh/"; }
serve drop dropbear -F -E -s -r "$W/host" -p 22
await drop 22
d() { app "d$RANDOM" dbclient -y -y -i "$W/id" "$@" 2>>d.log; }
[ "$(d "root@$(at drop)" echo hello)" = hello ] || fail "dropbear: a command"
d "root@$(at drop)" 'exit 7'; [ $? = 7 ] || fail "dropbear: the exit status"
d "root@$(at drop)" 'cat >'"$W/up" <"$f"; same up "$f" "dropbear: a file"
serve fwd dbclient -y -y -i "$W/id" -g -N -L "7100:$(at cat):7" "root@$(at drop)"
await fwd 7100
[ "$(echo tunnel | app c7 socat -t 10 - "TCP:$(at fwd):7100")" = tunnel ] || fail "dropbear: -L"
stop fwd; stop drop
pass
