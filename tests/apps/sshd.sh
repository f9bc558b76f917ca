#!/bin/bash
# OpenSSH: sshd on port 22 with privilege separation and its seccomp sandbox as Debian builds it: commands, a shell's exit status, scp and sftp of
# a large file both ways, port forwarding in both directions, a jump through one instance to another. SSH_MIB (16): the file's size; 200 for `make apps`.
# limit: 180
. "$(dirname "$0")/lib.sh"
f=$(big "${SSH_MIB:-16}")
mkdir -p -m 755 /run/sshd 2>/dev/null; mkdir -m 700 .ssh
ssh-keygen -q -t ed25519 -N '' -f host && ssh-keygen -q -t ed25519 -N '' -f id && cp id.pub authorized || fail "ssh-keygen"
me=$(id -un)
for i in one two; do
  l=22; [ "$MODE" = native ] && [ $i = two ] && l=2222
  cat >$i.conf <<C
Port $l
HostKey $W/host
PidFile $W/$i.pid
AuthorizedKeysFile $W/authorized
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
LogLevel VERBOSE
AllowTcpForwarding yes
MaxStartups 50
Subsystem sftp /usr/lib/openssh/sftp-server
C
  serve $i /usr/sbin/sshd -D -e -f "$W/$i.conf"
done
p2=$([ "$MODE" = native ] && echo 2222 || echo 22)
cat >client.conf <<C
Host one
  Hostname $(at one)
Host two
  Hostname $(at two)
  Port $p2
Host *
  User $me
  IdentityFile $W/id
  UserKnownHostsFile $W/known
  StrictHostKeyChecking no
  BatchMode yes
  ConnectTimeout 20
  LogLevel ERROR
C
await one 22; await two $p2
s() { app "c$RANDOM" ssh -F "$W/client.conf" "$@"; }
[ "$(s one echo hello)" = hello ] || fail "a command"
s one 'exit 42'; [ $? = 42 ] || fail "the exit status of a command"
[ "$(echo in | s one cat)" = in ] || fail "standard input"
grep -q 'Accepted publickey' one.log || fail "not authenticated by key: $(tail -3 one.log)"
# The sandboxed child could not have been refused anything: sshd would log its death.
! grep -qiE 'privsep_preauth: .*(died|sandbox)|bad system call|killed by signal' one.log || fail "the preauth child died: $(grep -iE 'privsep|signal' one.log)"
# Ten at once.
for n in 1 2 3 4 5 6 7 8 9 10; do s one "echo $n" >"many.$n" 2>>many.err & eval "m_$n=$!"; done
for n in 1 2 3 4 5 6 7 8 9 10; do eval "wait \$m_$n" && [ "$(cat many.$n)" = $n ] || fail "ten at once: number $n: $(tail -3 many.err)"; done
# Files: by scp (which speaks sftp), by the old scp protocol, by sftp back.
LIMIT=100 app c1 scp -q -F client.conf "$f" "one:$W/up" || fail "scp up: $?"; same up "$f" "scp up"; rm up
LIMIT=100 app c2 scp -q -O -F client.conf "one:$f" down || fail "scp -O down: $?"; same down "$f" "scp -O down"; rm down
echo "get $f $W/got" | LIMIT=100 app c3 sftp -q -b - -F client.conf one >sftp.out 2>&1 || fail "sftp: $? $(tail -2 sftp.out)"; same got "$f" "sftp"; rm got
# -L: a port of the client's instance leads to the echo server beside sshd; -R: a port of the server's instance leads back.
serve echo socat TCP4-LISTEN:7000,reuseaddr,fork EXEC:cat
await echo 7000
serve left ssh -N -F "$W/client.conf" -o ExitOnForwardFailure=yes -o GatewayPorts=yes -L "*:7001:$(at echo):7000" one
await left 7001
head -c 2000000 "$f" >part
app c4 socat -t 20 - "TCP4:$(at left):7001" <part | cmp -s - part || fail "-L: not what was sent"
serve right ssh -N -F "$W/client.conf" -o ExitOnForwardFailure=yes -R "7002:$(at echo):7000" one
for _ in $(seq 100); do grep -q 'listening on' right.log one.log 2>/dev/null && s one "bash -c 'exec 3<>/dev/tcp/localhost/7002' 2>/dev/null" && break; sleep 0.1; done
s one "socat -t 20 - TCP4:localhost:7002" <part | cmp -s - part || fail "-R: not what was sent"
# Through one to two.
[ "$(s -J one two 'echo through')" = through ] || fail "-J: a jump through one instance to another"
stop left; stop right
stop one; stop two
pass
