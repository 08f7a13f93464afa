#!/usr/bin/env python3
"""A client of the ivshmem-server protocol, written from QEMU's docs/specs/ivshmem-spec only; shares no code with vmring.

  talk PATH    one client; commands as JSON lines on stdin, everything that happens as JSON lines on stdout
  crowd PATH   many clients at once in this process; checks every handshake and every doorbell
  churn PATH   joins and leaves by the thousand under the eyes of observers; checks what each client was told
"""
import argparse
import array
import collections
import json
import mmap
import os
import select
import socket
import struct
import sys
import time


class Broken(Exception):
    pass


def connect(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


def readable(fd, timeout):
    # not select: that stops at descriptor 1023
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(timeout * 1000))


class Reader:
    """Cuts the stream into (value, fd or None). Never reads beyond the current message, so descriptors cannot mix."""

    def __init__(self, sock):
        self.sock = sock
        self.data = b""
        self.fd = None

    def read(self, flags=0):
        """One message; None when nothing is there; raises EOFError at the end."""
        while len(self.data) < 8:
            try:
                data, ancillary, msg_flags, _ = self.sock.recvmsg(8 - len(self.data), 64, flags)
            except (BlockingIOError, InterruptedError):
                return None
            for level, kind, payload in ancillary:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds = array.array("i")
                    fds.frombytes(payload)
                    if len(fds) != 1 or self.fd is not None:
                        raise Broken("more than one descriptor with a message")
                    self.fd = fds[0]
            if msg_flags & socket.MSG_CTRUNC:
                raise Broken("control data truncated")
            if not data:
                raise EOFError
            self.data += data
        value = struct.unpack("<q", self.data)[0]
        fd, self.data, self.fd = self.fd, b"", None
        return value, fd


class Client:
    """The specification's client: knows its id, the memory, and the eventfds of everybody who is there."""

    def __init__(self, path):
        self.sock = connect(path)
        self.reader = Reader(self.sock)
        self.version = None
        self.id = None
        self.memory = None
        self.own = []
        self.peers = collections.OrderedDict()
        self.left = []

    def handle(self, value, fd):
        if self.version is None:
            if value != 0 or fd is not None:
                raise Broken("first message is not version 0 alone")
            self.version = 0
        elif self.id is None:
            if not 0 <= value <= 65535 or fd is not None:
                raise Broken("second message is not an id alone")
            self.id = value
        elif value == -1:
            if fd is None or self.memory is not None:
                raise Broken("bad memory message")
            self.memory = fd
        elif not 0 <= value <= 65535:
            raise Broken("value out of range")
        elif value == self.id:
            if fd is None:
                raise Broken("own id without descriptor")
            self.own.append(fd)
        elif fd is None:
            if value not in self.peers:
                raise Broken("somebody left who was not there")
            for old in self.peers.pop(value):
                os.close(old)
            self.left.append(value)
        else:
            self.peers.setdefault(value, []).append(fd)

    def read_until(self, condition, timeout=20.0):
        end = time.monotonic() + timeout
        while not condition(self):
            if not readable(self.sock.fileno(), max(0, end - time.monotonic())):
                raise Broken("timed out")
            self.handle(*self.reader.read())

    def ring(self, peer, vector):
        os.write(self.peers[peer][vector], struct.pack("<Q", 1))

    def close(self):
        self.sock.close()
        for fd in [self.memory] if self.memory is not None else []:
            os.close(fd)
        for fd in self.own:
            os.close(fd)
        for fds in self.peers.values():
            for fd in fds:
                os.close(fd)


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def wait_rung(fd, timeout):
    """The count of an eventfd, 0 when it was not rung in time."""
    if not readable(fd, timeout):
        return 0
    return struct.unpack("<Q", os.read(fd, 8))[0]


def talk(args):
    client = Client(args.path)
    if args.receive_buffer:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, args.receive_buffer)
    client.sock.setblocking(False)
    reading = not args.paused
    quiet = False
    commands = b""
    while True:
        ready = select.select([0] + ([client.sock] if reading else []), [], [])[0]
        if client.sock in ready:
            try:
                for _ in range(256):
                    message = client.reader.read()
                    if message is None:
                        break
                    client.handle(*message)
                    if not quiet:
                        say(event="message", value=message[0], fd=message[1] is not None)
            except (EOFError, ConnectionResetError):
                say(event="closed")
                reading = False
            except Broken as error:
                say(event="broken", why=str(error))
                reading = False
        if 0 not in ready:
            continue
        chunk = os.read(0, 65536)
        if not chunk:
            return
        *lines, commands = (commands + chunk).split(b"\n")
        for line in lines:
            command = json.loads(line)
            op = command["op"]
            if op == "ring":
                client.ring(command["peer"], command["vector"])
                say(event="done")
            elif op == "wait":
                say(event="rung", count=wait_rung(client.own[command["vector"]], command["timeout"]))
            elif op == "memory":
                size = os.fstat(client.memory).st_size
                with mmap.mmap(client.memory, size) as memory:
                    data = memory[command["offset"]: command["offset"] + command["length"]]
                say(event="memory", size=size, hex=data.hex())
            elif op == "resume":
                reading, quiet = True, command.get("quiet", False)
                say(event="done")
            elif op == "summary":
                say(event="summary", id=client.id, own=len(client.own), left=client.left,
                    peers={str(peer): len(fds) for peer, fds in client.peers.items()})
            elif op == "send":
                client.sock.send(bytes.fromhex(command["hex"]))
                say(event="done")
            elif op == "quit":
                client.close()
                return


def crowd(args):
    """All join, all learn of all, and every vector of everybody is rung by everybody."""
    clients = [Client(args.path) for _ in range(args.clients)]
    vectors = args.vectors
    for client in clients:
        client.read_until(lambda c: len(c.own) == vectors and len(c.peers) == args.clients - 1
                          and all(len(fds) == vectors for fds in c.peers.values()))
    ids = [client.id for client in clients]
    if len(set(ids)) != len(ids):
        raise Broken("an id was given twice")
    inodes = {os.fstat(client.memory).st_ino for client in clients}
    if len(inodes) != 1:
        raise Broken("not one memory")
    # vector 0 also rings when membership changes: let that settle, then forget it
    time.sleep(0.3)
    for client in clients:
        for fd in client.own:
            wait_rung(fd, 0)
    rung = 0
    for client in clients:
        for peer in client.peers:
            for vector in range(vectors):
                client.ring(peer, vector)
    for client in clients:
        for fd in client.own:
            count = wait_rung(fd, 1)
            if count != args.clients - 1:
                raise Broken("rung %d times" % count)
            rung += count
    say(event="crowd", ids=sorted(ids), rung=rung)
    sys.stdin.readline()
    half = len(clients) // 2
    for client in clients[:half]:
        client.close()
    for client in clients[half:]:
        client.read_until(lambda c: len(c.left) == half)
    say(event="halved")
    sys.stdin.readline()


class Watcher:
    """A client reduced to what the id rule is about: which ids it has ever been told of."""

    def __init__(self, path, vectors):
        self.sock = connect(path)
        self.sock.setblocking(False)
        self.reader = Reader(self.sock)
        self.vectors = vectors
        self.stage = 0
        self.id = None
        self.own = 0
        self.told = set()
        self.there = {}
        self.joins = 0
        self.leaves = 0
        self.errors = []
        self.ended = False

    def ready(self):
        return self.own == self.vectors

    def drain(self):
        """Reads what is there."""
        read = self.reader.read
        try:
            while True:
                message = read()
                if message is None:
                    return
                value, fd = message
                if fd is not None:
                    os.close(fd)
                self.message(value, fd is not None)
        except (EOFError, ConnectionResetError):
            self.ended = True

    def message(self, value, has_fd):
        if self.stage < 3:
            expected = ((0, False), (None, False), (-1, True))[self.stage]
            if has_fd != expected[1] or (expected[0] is not None and value != expected[0]):
                self.errors.append("handshake message %d is %d" % (self.stage, value))
            if self.stage == 1:
                self.id = value
                self.told.add(value)
            self.stage += 1
        elif value == self.id:
            if not has_fd:
                self.errors.append("own id without descriptor")
            self.own += 1
        elif has_fd:
            seen = self.there.get(value, 0)
            if seen == 0:
                # the rule: an id never comes back to somebody who was told of it
                if value in self.told:
                    self.errors.append("id %d came back" % value)
                self.told.add(value)
                self.joins += 1
            if seen == self.vectors:
                self.errors.append("id %d has too many vectors" % value)
            self.there[value] = seen + 1
        else:
            if self.there.pop(value, 0) != self.vectors:
                self.errors.append("id %d left without having been there whole" % value)
            self.leaves += 1


def churn(args):
    """Short-lived clients come and go; of the observers one in turn is replaced by a new one."""
    poll = select.epoll()
    watchers = {}
    errors = []
    given = collections.Counter()
    ours = set()

    def add():
        watcher = Watcher(args.path, args.vectors)
        watchers[watcher.sock.fileno()] = watcher
        poll.register(watcher.sock, select.EPOLLIN)
        return watcher

    def drop(watcher):
        ours.add(watcher.id)
        errors.extend(watcher.errors)
        poll.unregister(watcher.sock)
        del watchers[watcher.sock.fileno()]
        watcher.sock.close()

    def pump(timeout):
        for fd, _ in poll.poll(timeout):
            watchers[fd].drain()

    def settle(condition):
        end = time.monotonic() + 20
        while not condition():
            if time.monotonic() > end:
                raise Broken("timed out")
            pump(0.1)

    # Somebody who stays from the beginning and so knows every id: when all have been used once, the server has to turn
    # newcomers away until the veteran leaves.
    veteran = None
    if args.veteran:
        veteran = add()
        settle(veteran.ready)
    observers = collections.deque()
    observed = 0
    for _ in range(args.observers):
        observers.append(add())
        settle(observers[-1].ready)
    done = 0
    stage = 0
    flying = set()
    refused = 0
    while done < args.joins:
        while len(flying) < args.parallel and done + len(flying) < args.joins:
            flying.add(add())
        pump(5)
        for watcher in [w for w in flying if w.ready() or w.ended]:
            flying.discard(watcher)
            if watcher.ready():
                given[watcher.id] += 1
                done += 1
            else:
                refused += 1
                errors.extend(["turned away with half a handshake"] if watcher.stage > 0 else [])
                if refused > 1000:
                    raise Broken("turned away for ever")
            drop(watcher)
        if refused > 0 and veteran is not None:
            veteran.drain()
            observed += veteran.joins
            drop(veteran)
            veteran = None
            time.sleep(0.2)
        if args.observers and done >= (stage + 1) * args.observer_life:
            stage += 1
            old = observers.popleft()
            old.drain()
            observed += old.joins
            drop(old)
            observers.append(add())
            settle(observers[-1].ready)
        if args.report_at and done >= args.report_at:
            say(event="warm", done=done)
            sys.stdin.readline()
            args.report_at = 0
    # Whoever is left must have heard of every leave as well. (Clients of other processes may be there, too.)
    staying = {o.id for o in observers} | ({veteran.id} if veteran is not None else set())
    settle(lambda: all(set(o.there) & (ours | staying) == staying - {o.id} for o in observers))
    if veteran is not None:
        drop(veteran)
    for observer in list(observers):
        observed += observer.joins
        drop(observer)
    say(event="churned", joins=done, refused=refused, errors=errors[:10], errorCount=len(errors),
        distinct=len(given), reused=sum(1 for n in given.values() if n > 1), observed=observed)
    sys.stdin.readline()


def main():
    parser = argparse.ArgumentParser()
    commands = parser.add_subparsers(required=True)
    talker = commands.add_parser("talk")
    talker.add_argument("path")
    talker.add_argument("--paused", action="store_true", help="do not read until told to")
    talker.add_argument("--receive-buffer", type=int, default=0)
    talker.set_defaults(run=talk)
    many = commands.add_parser("crowd")
    many.add_argument("path")
    many.add_argument("--clients", type=int, default=64)
    many.add_argument("--vectors", type=int, default=2)
    many.set_defaults(run=crowd)
    churner = commands.add_parser("churn")
    churner.add_argument("path")
    churner.add_argument("--joins", type=int, required=True)
    churner.add_argument("--parallel", type=int, default=4)
    churner.add_argument("--observers", type=int, default=4)
    churner.add_argument("--observer-life", type=int, default=1000, help="joins between two changes of observers")
    churner.add_argument("--vectors", type=int, default=1)
    churner.add_argument("--veteran", action="store_true", help="one observer stays until somebody is turned away")
    churner.add_argument("--report-at", type=int, default=0, help="say so after that many joins and wait for a line")
    churner.set_defaults(run=churn)
    args = parser.parse_args()
    args.run(args)


main()
