#!/bin/bash
# curl and wget against python3 -m http.server: 1 GiB, sha256 equal, both directions (an upload through a small server in Python).
# limit: 240
. "$(dirname "$0")/lib.sh"
f=$(big 1024); mkdir www; ln -s "$f" www/file; echo small >www/small
serve web python3 -m http.server 80 --bind 0.0.0.0 --directory www
cat >up.py <<'P'
# Takes a PUT, answers with the sha256 of what came.
import hashlib, http.server
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_PUT(self):
        h = hashlib.sha256(); left = int(self.headers['Content-Length'])
        if self.headers.get('Expect'): self.send_response_only(100); self.end_headers()
        while left:
            b = self.rfile.read(min(left, 1 << 20))
            if not b: return
            h.update(b); left -= len(b)
        a = h.hexdigest().encode()
        self.send_response(200); self.send_header('Content-Length', str(len(a))); self.end_headers(); self.wfile.write(a)
http.server.ThreadingHTTPServer(('0.0.0.0', 81), H).serve_forever()
P
serve up python3 up.py
await web 80; await up 81
for i in 1 2 3; do [ "$(app c1 curl -sS --max-time 20 "http://$(at web)/small")" = small ] || fail "curl of a small file"; done
LIMIT=100 app c1 curl -sS -o got "http://$(at web)/file" || fail "curl: status $?"
same got "$f" curl; rm got
LIMIT=100 app w1 wget -q -O got "http://$(at web)/file" || fail "wget: status $?"
same got "$f" wget; rm got
a=$(LIMIT=100 app c2 curl -sS -T "$f" "http://$(at up):81/up") || fail "upload: status $?"
[ "$a" = "$(cat "$f.sha")" ] || fail "upload came through changed: $a"
# Several at once, one instance each, and one with parallel connections.
four=
for i in 1 2 3 4; do app "p$i" curl -sS -o "g$i" "http://$(at web)/small" & four="$four $!"; done
for p in $four; do wait "$p" || fail "one of four at once: $?"; done
cmp -s g1 www/small && cmp -s g4 www/small || fail "four at once: other bytes"
app c3 curl -sS --parallel --remote-name-all "http://$(at web)/small?[1-20]" || fail "curl --parallel: $?"
# An error is an error: nobody listens there.
app c4 curl -sS --max-time 20 "http://$(at web):82/" 2>err; rc=$?; [ $rc = 7 ] || fail "curl to a closed port: status $rc, want 7 ($(cat err))"
pass "1 GiB each by curl, wget and curl -T"
