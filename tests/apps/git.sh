#!/bin/bash
# git between two instances: clone and push over http (git http-backend behind nginx and fcgiwrap), by git's own daemon, and over ssh; and make -j8
# driving servers and clients in parallel, all of one instance and between instances. GIT_FILES (300): how many files the repository has.
# limit: 180
. "$(dirname "$0")/lib.sh"
GIT=/usr/bin/git
export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
cat >.gitconfig <<C
[safe]
  directory = *
[init]
  defaultBranch = main
[receive]
  denyCurrentBranch = ignore
C
g() { $GIT "$@" >>git.out 2>&1 || fail "git $*: $(tail -3 git.out)"; }
f=$(big 8); g init -q seed
for n in $(seq "${GIT_FILES:-300}"); do mkdir -p seed/d$((n % 17)); echo "file $n" >seed/d$((n % 17))/f$n; done; cp "$f" seed/blob
(cd seed && g add . && g commit -qm first && g tag v1)
mkdir repos; g clone -q --bare seed repos/r.git; g -C repos/r.git config http.receivepack true; touch repos/r.git/git-daemon-export-ok
tip() { $GIT -C "$1" rev-parse "${2:-HEAD}"; }

# http: nginx hands each request to git http-backend by fcgiwrap (over an AF_UNIX socket, the kernel's).
cat >nginx.conf <<C
daemon off; worker_processes 2; error_log stderr warn; pid $W/nginx.pid; user root;
events { worker_connections 256; }
http { access_log off; client_max_body_size 0; client_body_temp_path $W/b; proxy_temp_path $W/p; fastcgi_temp_path $W/f; uwsgi_temp_path $W/u; scgi_temp_path $W/s;
  server { listen 80; location / {
    fastcgi_pass unix:$W/fcgi; fastcgi_param SCRIPT_FILENAME /usr/lib/git-core/git-http-backend; fastcgi_param GIT_PROJECT_ROOT $W/repos;
    fastcgi_param GIT_HTTP_EXPORT_ALL 1; fastcgi_param PATH_INFO \$uri; fastcgi_param QUERY_STRING \$query_string; fastcgi_param REMOTE_USER me;
    fastcgi_param REQUEST_METHOD \$request_method; fastcgi_param CONTENT_TYPE \$content_type; fastcgi_param CONTENT_LENGTH \$content_length;
    fastcgi_param HTTP_CONTENT_ENCODING \$http_content_encoding; fastcgi_param HOME $W; fastcgi_buffering off; } } }
C
serve web sh -c "fcgiwrap -c 4 -s unix:$W/fcgi & exec nginx -p $W -c $W/nginx.conf"
serve daemon $GIT daemon --reuseaddr --base-path="$W/repos" --enable=receive-pack
mkdir -p -m 755 /run/sshd 2>/dev/null; ssh-keygen -q -t ed25519 -N '' -f host; ssh-keygen -q -t ed25519 -N '' -f id; cp id.pub authorized
cat >sshd.conf <<C
Port 22
HostKey $W/host
PidFile $W/sshd.pid
AuthorizedKeysFile $W/authorized
PermitRootLogin yes
UsePAM no
StrictModes no
UseDNS no
SetEnv HOME=$W
C
serve ssh /usr/sbin/sshd -D -e -f "$W/sshd.conf"
await web 80; await daemon 9418; await ssh 22
export GIT_SSH_COMMAND="ssh -i $W/id -o StrictHostKeyChecking=no -o UserKnownHostsFile=$W/known -o BatchMode=yes -o LogLevel=ERROR -o ConnectTimeout=20"
urls="http://$(at web)/r.git git://$(at daemon)/r.git $(id -un)@$(at ssh):$W/repos/r.git"
n=0
for url in $urls; do
  n=$((n + 1))
  LIMIT=60 app "clone$n" $GIT clone -q "$url" "c$n" >>git.out 2>&1 || fail "git clone $url: $(tail -3 git.out)"
  [ "$(tip "c$n")" = "$(tip repos/r.git main)" ] || fail "git clone $url: another commit came"
  cmp -s "c$n/blob" "$f" || fail "git clone $url: the blob is not what it was"
  (cd "c$n" && echo "$n" >"new$n" && head -c 3000000 "$f" >"big$n" && g add . && g commit -qm "number $n")
  LIMIT=60 app "push$n" $GIT -C "c$n" push -q origin HEAD:main >>git.out 2>&1 || fail "git push $url: $(tail -3 git.out)"
  [ "$(tip "c$n")" = "$(tip repos/r.git main)" ] || fail "git push $url: did not arrive"
done
LIMIT=60 app pull $GIT -C c1 pull -q --ff-only origin main >>git.out 2>&1 || fail "git pull: $(tail -3 git.out)"
[ "$(tip c1)" = "$(tip repos/r.git main)" ] || fail "git pull: not everything came"
g -C repos/r.git fsck --full

# make -j8: servers and clients in parallel, all of one instance; each client asks its own server and those of other instances.
cat >Makefile <<'M'
N := 1 2 3 4 5 6 7 8
all: $(N:%=one-%) $(N:%=clone-%) $(N:%=away-%)
# A server for one connection and its client, on a port of their own.
one-%:
	@socat TCP-LISTEN:71$*,reuseaddr SYSTEM:'read a; echo "$* $$a"' & \
	for t in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
	  got=$$(echo hello | socat -t 10 - TCP:$(LO):71$* 2>/dev/null) && break; sleep 0.1; done; \
	wait; test "$$got" = "$* hello" && touch $@
clone-%:
	@$(GIT) clone -q --depth 1 git://$(DAEMON)/r.git m$* && cmp -s m$*/blob $(BLOB) && touch $@
away-%:
	@python3 -c "import urllib.request as u; assert len(u.urlopen('http://$(WEB)/r.git/info/refs?service=git-upload-pack', timeout=30).read()) > 100" && touch $@
M
lo=127.0.0.1
LIMIT=90 app maker make -j8 -s GIT=$GIT LO=$lo DAEMON="$(at daemon)" WEB="$(at web)" BLOB="$f" all >make.log 2>&1 || fail "make -j8: $?"
[ "$(ls one-* clone-* away-* | wc -l)" = 24 ] || fail "make -j8: not all done"
stop daemon; stop ssh; stop web
pass
