#!/bin/bash
# install.sh: what the tests, the demo and the bench need on a fresh Debian machine, installed only where missing.
#
# Theory of operation. Each line of NEED is "command package": if the command is found nothing happens; all missing packages
# are installed by one apt-get. Debian's packages start their services on install (nginx takes port 80, redis 6379): a
# temporary policy-rc.d forbids that, since the tests start every server themselves. Not installed here: Rust (1.95 or newer).
set -eu
NEED='
curl curl
wget wget
python3 python3
redis-server redis-server
redis-benchmark redis-tools
memcached memcached
memccp libmemcached-tools
iperf3 iperf3
socat socat
busybox busybox-static
nc netcat-openbsd
openssl openssl
node nodejs
java default-jdk-headless
ab apache2-utils
wrk wrk
nginx nginx-light
apache2 apache2-bin
gunicorn gunicorn
uvicorn uvicorn
strace strace
tshark tshark
ss iproute2
ip iproute2
unshare util-linux
setpriv util-linux
sshd openssh-server
ssh openssh-client
dropbear dropbear-bin
dbclient dropbear-bin
git git
fcgiwrap fcgiwrap
make make
jq jq
cc gcc
nm binutils
ps procps
ping iputils-ping
passt passt
dnsmasq dnsmasq-base
tc iproute2
'
PATH=$PATH:/usr/sbin:/sbin
missing=$(while read -r cmd pkg; do [ -z "$cmd" ] || command -v "$cmd" >/dev/null || echo "$pkg"; done <<<"$NEED" | sort -u | tr '\n' ' ')
# The JDK's source launcher (java X.java) needs the compiler: a JRE alone is not enough.
command -v javac >/dev/null || case " $missing " in *default-jdk*) ;; *) missing="$missing default-jdk-headless" ;; esac
# Debian keeps PostgreSQL's programs out of the path.
[ -x /usr/lib/postgresql/15/bin/postgres ] || missing="$missing postgresql-15"
[ -x /usr/lib/git-core/git-http-backend ] || missing="$missing git"
# libc's static half and the headers, for the C programs.
[ -e /usr/lib/x86_64-linux-gnu/libc.a ] || [ -e /usr/lib/aarch64-linux-gnu/libc.a ] || missing="$missing libc6-dev"
if [ -z "${missing// /}" ]; then echo "install: nothing missing"; exit 0; fi
echo "install: apt-get install $missing"
[ "$(id -u)" = 0 ] || { echo "install: not root; as root run: apt-get install $missing" >&2; exit 1; }
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' > $policy
  chmod 755 $policy
  trap 'rm -f $policy' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# The lists on an image may be empty or old: one refresh, and a second try if a mirror stumbles.
for try in 1 2 3; do
  if { apt-get update -qq || true; apt-get install -y -qq --no-install-recommends $missing </dev/null; } >"$log" 2>&1; then
    rm -f "$log"; echo "install: done"; exit 0
  fi
  echo "install: try $try failed" >&2; sleep 5
done
tail -30 "$log" >&2
exit 1
