#!/bin/bash
# openssl s_server and s_client: TLS 1.3 and 1.2 handshakes, 64 MiB through it each way, a session resumed, many handshakes in a row.
. "$(dirname "$0")/lib.sh"
openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=tls -addext "subjectAltName=DNS:tls" >req.log 2>&1 || fail "no certificate"
f=$(big 64); cp "$f" file
serve tls openssl s_server -accept 443 -cert cert.pem -key key.pem -WWW -quiet
await tls 443
h=$(at tls)
for v in tls1_3 tls1_2; do
  # -WWW serves files of its directory; the answer is a header, an empty line and the file.
  printf 'GET /file HTTP/1.0\r\n\r\n' | LIMIT=60 app "c-$v" openssl s_client -connect "$h:443" -servername tls -CAfile cert.pem -verify_return_error -$v -quiet -ign_eof >got 2>c.log || fail "s_client $v: $?"
  tail -c 67108864 got >body; same body "$f" "64 MiB by $v"
done
# A session and its second use (TLS 1.2: in 1.3 the ticket comes after the handshake, whenever it likes).
app c2 openssl s_client -connect "$h:443" -tls1_2 -CAfile cert.pem -sess_out sess </dev/null >c2.log 2>&1; [ -s sess ] || fail "no session"
app c2 openssl s_client -connect "$h:443" -tls1_2 -CAfile cert.pem -sess_in sess </dev/null >c2.log 2>&1; grep -q '^Reused, TLSv1.2' c2.log || fail "the session was not resumed"
LIMIT=30 app time openssl s_time -connect "$h:443" -CAfile cert.pem -new -time 2 >time.log 2>&1 || fail "s_time: $?"
grep -qE '[1-9][0-9]* connections in' time.log || fail "s_time made no connection"
# The other direction: the client sends 64 MiB, the server stores them. In base 16, since s_client takes a line that begins with K, Q or R as
# a command to itself.
basenc --base16 <"$(big 32)" >hex
serve up sh -c "sleep 100 | openssl s_server -accept 444 -cert cert.pem -key key.pem -quiet -naccept 1 >got-up"
for _ in $(seq 50); do (cat hex; sleep 1) | LIMIT=60 app c3 openssl s_client -connect "$(at up):444" -quiet -no_ign_eof >c3.out 2>c3.log && break; sleep 0.3; done
for _ in $(seq 100); do [ "$(stat -c %s got-up 2>/dev/null)" = "$(stat -c %s hex)" ] && break; sleep 0.1; done
cmp got-up hex >cmp.log 2>&1 || fail "64 MiB to s_server"
# curl speaks TLS too, with a name that the certificate knows.
if [ "$MODE" != native ]; then
  [ "$(LIMIT=60 app c4 curl -sS --cacert cert.pem https://tls/file | tail -c 67108864 | sha256sum | cut -d' ' -f1)" = "$(cat "$f.sha")" ] || fail "curl https"
fi
pass "$(grep -oE '[0-9]+ connections in [0-9.]+' time.log | tail -1)s"
