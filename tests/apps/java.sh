#!/bin/bash
# Java: com.sun.net.httpserver with a thread pool, and java.net.http (NIO), a blocking Socket, and UDP by DatagramChannel.
# limit: 150
. "$(dirname "$0")/lib.sh"
cat >S.java <<'J'
import com.sun.net.httpserver.*; import java.net.*; import java.util.concurrent.*; import java.security.*;
public class S { public static void main(String[] a) throws Exception {
  HttpServer s = HttpServer.create(new InetSocketAddress(8080), 200);
  s.createContext("/", x -> {
    byte[] b = x.getRequestBody().readAllBytes(), r;
    try { r = x.getRequestMethod().equals("POST") ? MessageDigest.getInstance("SHA-256").digest(b) : ("hello " + x.getRequestURI()).getBytes(); } catch (Exception e) { throw new RuntimeException(e); }
    x.sendResponseHeaders(200, r.length); x.getResponseBody().write(r); x.close(); });
  s.setExecutor(Executors.newFixedThreadPool(8)); s.start();
  DatagramSocket u = new DatagramSocket(8081); new Thread(() -> { try { for (;;) { DatagramPacket p = new DatagramPacket(new byte[2000], 2000); u.receive(p); u.send(p); } } catch (Exception e) { e.printStackTrace(); } }).start();
  System.out.println("listening");
} }
J
cat >C.java <<'J'
import java.net.*; import java.net.http.*; import java.nio.*; import java.nio.channels.*; import java.security.*; import java.util.*; import java.util.concurrent.*; import java.io.*;
public class C { public static void main(String[] a) throws Exception {
  String base = "http://" + a[0] + ":8080/";
  HttpClient c = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
  List<CompletableFuture<String>> f = new ArrayList<>();
  for (int round = 0; round < 5; round++) {
    for (int i = 0; i < 60; i++) f.add(c.sendAsync(HttpRequest.newBuilder(URI.create(base + i)).build(), HttpResponse.BodyHandlers.ofString()).thenApply(HttpResponse::body));
    for (int i = 0; i < 60; i++) if (!f.get(i).get(60, TimeUnit.SECONDS).equals("hello /" + i)) throw new Exception("answer " + i);
    f.clear();
  }
  byte[] up = new byte[8 << 20]; new Random(1).nextBytes(up);
  byte[] got = c.send(HttpRequest.newBuilder(URI.create(base)).POST(HttpRequest.BodyPublishers.ofByteArray(up)).build(), HttpResponse.BodyHandlers.ofByteArray()).body();
  if (!Arrays.equals(got, MessageDigest.getInstance("SHA-256").digest(up))) throw new Exception("upload");
  try (Socket s = new Socket(a[0], 8080)) { s.setSoTimeout(20000); s.setTcpNoDelay(true); s.getOutputStream().write("GET /plain HTTP/1.0\r\n\r\n".getBytes());
    String all = new String(s.getInputStream().readAllBytes()); if (!all.endsWith("hello /plain")) throw new Exception("plain socket: " + all); }
  try (DatagramChannel u = DatagramChannel.open(); Selector sel = Selector.open()) {
    u.configureBlocking(false); u.register(sel, SelectionKey.OP_READ); u.connect(new InetSocketAddress(a[0], 8081)); ByteBuffer b = ByteBuffer.allocate(100); int tries = 0;
    do { u.write(ByteBuffer.wrap("dgram".getBytes())); if (tries++ > 20) throw new Exception("no datagram back"); } while (sel.select(500) == 0); 
    if (u.read(b) != 5) throw new Exception("datagram"); }
  try { new Socket(a[0], 8999); throw new Exception("a closed port accepted"); } catch (ConnectException e) { }
  // By name, both families (Java asks /proc/net/if_inet6 whether there is IPv6 at all).
  if (!a[0].equals("127.0.0.1") && InetAddress.getAllByName(a[0]).length < 2) throw new Exception("one address only");
  System.out.println("good"); System.exit(0);
} }
J
# Compiled outside (the compiler is no part of the test), run as classes: the launcher's start-up is the JVM's own.
javac -d . S.java C.java >javac.log 2>&1 || fail "javac"
serve j java -Xmx256m -cp . S
await j 8080
[ "$(LIMIT=90 app c java -Xmx256m -cp . C "$(at j)" 2>client.log)" = good ] || fail "Java's client"
# And the single-file launcher, which compiles in the same process.
stop j
serve j2 java -Xmx256m S.java
await j2 8080
[ "$(app cu curl -sS "http://$(at j2):8080/x")" = "hello /x" ] || fail "curl against Java"
pass
