"""Replaces two servers behind a proxy, one after the other, while clients send requests without a pause. Arguments: the
program, a model.

As Kubernetes does it, the proxy learns of a pod's end a moment after it was decided, the pod goes on answering
meanwhile (preStop), and SIGTERM comes then: no request may fail, with a proxy that never tries twice. Nor may one where
the server works on after SIGTERM (--shutdown-delay) and the proxy learns of it by asking /readyz. Where SIGTERM comes
first, a proxy that tries another server helps, and one that does not shows that failures would be seen."""

import atexit
import http.client
import http.server
import queue
import struct
import subprocess
import sys
import threading
import time
import zlib

PROGRAM, MODEL = sys.argv[1:3]
# Between the decision and the proxy's knowledge of it, and between the decision and SIGTERM, in seconds.
TOLD, PRE_STOP = 0.3, 1.0
CLIENTS, PAUSE, WAIT = 4, 0.003, 60


class Server:
    """A process of the program on a free port."""

    def __init__(self, delay=0):
        flags = ["--model", MODEL, "--port", "0", "--provider", "cpu", "--intra-threads", "1", "--drain-timeout", "20s"]
        flags += ["--shutdown-delay", f"{delay}s"] if delay else []
        self.process = subprocess.Popen([PROGRAM, *flags], stderr=subprocess.PIPE, text=True)
        atexit.register(self.process.kill)
        first = self.process.stderr.readline()
        self.address = first.rsplit("://", 1)[1].strip()
        self.log = [first]
        threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True).start()
        self.answered = 0

    def ready(self):
        """As a readiness probe asks."""
        connection = http.client.HTTPConnection(self.address, timeout=WAIT)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait(self):
        end = time.monotonic() + WAIT
        while not self.ready():
            assert time.monotonic() < end and self.process.poll() is None, "".join(self.log)
            time.sleep(0.02)

    def work(self):
        """Until it has answered some requests of the load."""
        end = time.monotonic() + WAIT
        while self.answered < 20:
            assert time.monotonic() < end, f"the server answered {self.answered} requests"
            time.sleep(0.02)

    def end(self):
        self.process.terminate()
        self.leave()

    def leave(self):
        """Waits for the end that it was told of."""
        code = self.process.wait(WAIT)
        assert code == 0, f"the server ended with {code}: {''.join(self.log[-20:])}"


class Proxy:
    """Forwards each request to the next server in turn, by connections that it keeps."""

    def __init__(self, servers, tries):
        self.servers, self.tries, self.turn, self.lock = servers, tries, 0, threading.Lock()
        self.idle = {}
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Head and body leave in one segment.
            wbufsize = -1
            disable_nagle_algorithm = True

            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                status, answer = proxy.forward(self.path, body)
                self.send_response(status)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.listener.daemon_threads = True
        self.address = "127.0.0.1:%d" % self.listener.server_port
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def choose(self):
        """As many servers as may be tried, beginning with the next in turn."""
        with self.lock:
            self.turn += 1
            at = self.turn % len(self.servers)
            return (self.servers[at:] + self.servers[:at])[: self.tries]

    def forward(self, path, body):
        """Status and answer of the first server that does the work."""
        for server in self.choose():
            try:
                status, answer = self.ask(server, path, body)
            except (OSError, http.client.HTTPException) as error:
                status, answer = 502, repr(error).encode()
            if status not in (502, 503):
                break
        server.answered += status == 200
        return status, answer

    def ask(self, server, path, body):
        pool = self.idle.setdefault(server.address, queue.SimpleQueue())
        try:
            connection = pool.get_nowait()
        except queue.Empty:
            connection = http.client.HTTPConnection(server.address, timeout=WAIT)
        connection.request("POST", path, body)
        answer = connection.getresponse()
        result = answer.status, answer.read()
        pool.put(connection)
        return result

    def replace(self, old, new):
        with self.lock:
            self.servers = [new if server is old else server for server in self.servers]


def png(width, height, shade):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    pixels = [bytes(shade + x * y % 97 + c for x in range(width) for c in range(3)) for y in range(height)]
    rows = b"".join(b"\0" + row for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


class Load:
    """Clients that send one request after the other; what they got, by status."""

    def __init__(self, address):
        self.address, self.ended, self.seen, self.failures = address, threading.Event(), 0, []
        self.pictures = [png(64 + 48 * n, 64 + 32 * n, 30 * n) for n in range(5)]
        self.threads = [threading.Thread(target=self.client, args=(n,)) for n in range(CLIENTS)]
        [thread.start() for thread in self.threads]

    def client(self, number):
        connection, at = http.client.HTTPConnection(self.address, timeout=WAIT), number
        while not self.ended.is_set():
            at += 1
            try:
                connection.request("POST", ("/v1/embed", "/v1/analyze?mirror=true")[at % 2], self.pictures[at % 5])
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
            except (OSError, http.client.HTTPException) as error:
                status, text = 0, repr(error).encode()
                connection.close()
            self.seen += 1
            if status != 200:
                self.failures.append((status, text[:200]))
            time.sleep(PAUSE)

    def stop(self):
        self.ended.set()
        [thread.join(WAIT) for thread in self.threads]


def update(tries, pre_stop, rounds=1, delay=0):
    """Replaces every server `rounds` times; gives the load and all servers that there were."""
    servers = [Server(delay), Server(delay)]
    [server.wait() for server in servers]
    proxy, everyone = Proxy(list(servers), tries), list(servers)
    load = Load(proxy.address)
    try:
        [server.work() for server in servers]
        for at in [0, 1] * rounds:
            new = Server(delay)
            everyone.append(new)
            new.wait()
            old, servers[at] = servers[at], new
            if delay:
                old.process.terminate()
                while old.ready():
                    time.sleep(0.02)
            elif not pre_stop:
                old.end()
            time.sleep(TOLD)
            proxy.replace(old, new)
            if pre_stop:
                time.sleep(pre_stop - TOLD)
                old.end()
            elif delay:
                old.leave()
            new.work()
    finally:
        load.stop()
        proxy.listener.shutdown()
        [server.process.kill() for server in everyone]
    return load, everyone


load, everyone = update(tries=1, pre_stop=PRE_STOP, rounds=2)
assert load.seen > 100 and not load.failures, (load.seen, load.failures[:5])
print(f"preStop: {load.seen} requests, {len(everyone) - 2} servers replaced, none failed")

load, _ = update(tries=1, pre_stop=0, delay=PRE_STOP)
assert load.seen > 50 and not load.failures, (load.seen, load.failures[:5])
print(f"a delay after SIGTERM: {load.seen} requests, none failed")

load, _ = update(tries=2, pre_stop=0)
assert load.seen > 50 and not load.failures, (load.seen, load.failures[:5])
print(f"a second try: {load.seen} requests, none failed")

load, _ = update(tries=1, pre_stop=0)
assert load.failures, "without either, requests fail; if not, this test sees nothing"
assert all(status in (502, 503) for status, _ in load.failures), load.failures[:5]
print(f"neither: {load.seen} requests, {len(load.failures)} failed")
