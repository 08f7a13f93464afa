#!/usr/bin/env python3
"""A client of the relay, written from docs/protocol.md sections 9 and 14 only; shares no code with vmring.

  talk           commands as JSON lines on stdin, everything that happens as JSON lines on stdout; any number of connections
  churn PATH     many rounds of hello, listen, dial, take, a few bytes both ways, close; checks every byte
  echo PATH      one pair; moves bytes both ways at once through one splice, and checks them
"""
import argparse
import hashlib
import json
import os
import random
import selectors
import socket
import struct
import sys
import time

TYPES = {
    "HELLO": 32, "WELCOME": 33, "LISTEN": 34, "UNLISTEN": 35, "DIAL": 36, "CALL": 37, "TAKE": 38,
    "SPLICED": 39, "REFUSE": 40, "OK": 41, "REVOKE": 42, "PING": 43, "PONG": 44,
}
NAMES = {number: name for name, number in TYPES.items()}
SERVICE, REASON, PATH, PEER, TARGET, TOKEN, ORIGIN, GRANT = 1, 5, 9, 10, 11, 12, 13, 14


def field(kind, data):
    return struct.pack("<HH", kind, len(data)) + data + b"\0" * (-len(data) % 4)


def peer_bytes(peer):
    """'UUIDHEX:INCARNATION'"""
    uuid, incarnation = peer.split(":")
    return bytes.fromhex(uuid) + struct.pack("<I", int(incarnation))


def peer_text(data):
    return "%s:%d" % (data[:16].hex(), struct.unpack("<I", data[16:20])[0])


def frame(kind, service=None, reason=None, text="", peer=None, target=None, token=None, flags=0, version=1):
    body = b""
    if service is not None:
        body += field(SERVICE, service.encode())
    if reason is not None:
        body += field(REASON, struct.pack("<I", reason) + text.encode())
    if peer is not None:
        body += field(PEER, peer_bytes(peer))
    if target is not None:
        body += field(TARGET, peer_bytes(target))
    if token is not None:
        body += field(TOKEN, bytes.fromhex(token))
    return struct.pack("<BBHI24sII", version, kind, flags, 0, b"\0" * 24, len(body), 0) + body


def parse(data):
    """(frame as a dictionary, bytes used), or None when more is needed."""
    if len(data) < 40:
        return None
    version, kind, flags, epoch, channel, length, zero = struct.unpack("<BBHI24sII", data[:40])
    if version != 1 or epoch != 0 or channel != b"\0" * 24 or zero != 0 or length > 2008:
        raise ValueError("the relay sent a header that the protocol does not allow: " + data[:40].hex())
    if len(data) < 40 + length:
        return None
    found = {"type": NAMES.get(kind, kind)}
    if flags:
        found["flags"] = flags
    at, end = 40, 40 + length
    while at < end:
        number, size = struct.unpack("<HH", data[at:at + 4])
        value = data[at + 4:at + 4 + size]
        padded = size + (-size % 4)
        if at + 4 + padded > end or any(data[at + 4 + size:at + 4 + padded]):
            raise ValueError("the relay sent a field that does not fit: " + data[:end].hex())
        if number == SERVICE:
            found["service"] = value.decode()
        elif number == REASON:
            found["reason"] = struct.unpack("<I", value[:4])[0]
            found["text"] = value[4:].decode()
        elif number == PATH:
            found["path"] = value.decode()
        elif number == PEER:
            found["peer"] = peer_text(value)
        elif number == TOKEN:
            found["token"] = value.hex()
        elif number == ORIGIN:
            found["origin"] = value.decode()
        elif number == GRANT:
            found.setdefault("grants", []).append(value.decode())
        else:
            raise ValueError("a field of unknown number %d" % number)
        at += 4 + padded
    return found, end


def say(**event):
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def connect(path):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)
    return sock


# ------------------------------------------------------------------------------------------------------------------- talk


class Connection:
    def __init__(self, name, path, talk, uid):
        self.name = name
        self.talk = talk
        # the kernel notes the effective user at the moment of connect()
        os.seteuid(uid)
        try:
            self.sock = connect(path)
        finally:
            os.seteuid(os.getuid())
        self.sock.setblocking(False)
        self.buffer = b""
        self.raw = False
        self.out = b""
        self.received = 0
        self.reading = True
        self.watch()

    def watch(self):
        events = (selectors.EVENT_READ if self.reading else 0) | (selectors.EVENT_WRITE if self.out else 0)
        try:
            self.talk.unregister(self.sock)
        except KeyError:
            pass
        if events:
            self.talk.register(self.sock, events, self)

    def send(self, data):
        self.out += data
        self.flush()

    def flush(self):
        try:
            while self.out:
                self.out = self.out[self.sock.send(self.out[:65536]):]
        except BlockingIOError:
            pass
        except OSError as error:
            say(event="broken", id=self.name, error=error.strerror)
            self.out = b""
        self.watch()

    def read(self):
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            say(event="closed", id=self.name, error=error.strerror, received=self.received)
            self.reading = False
            self.watch()
            return
        if not data:
            say(event="end", id=self.name, received=self.received)
            self.reading = False
            self.watch()
            return
        if not self.raw:
            self.buffer += data
            data = b""
            while not self.raw:
                result = parse(self.buffer)
                if result is None:
                    return
                found, used = result
                self.buffer = self.buffer[used:]
                say(event=found["type"], id=self.name, **found)
                self.raw = found["type"] == "SPLICED"
            data, self.buffer = self.buffer, b""
        if data:
            self.received += len(data)
            say(event="data", id=self.name, hex=data.hex() if len(data) <= 4096 else None, received=self.received)

    def close(self):
        self.out = b""
        self.reading = False
        self.watch()
        self.sock.close()


def obey(talk, connections, command):
    op, name = command["op"], command.get("id")
    if op == "connect":
        try:
            connections[name] = Connection(name, command["path"], talk, command.get("uid", os.getuid()))
        except OSError as error:
            say(event="failed", id=name, error=error.strerror)
            return
        say(event="connected", id=name)
        return
    connection = connections[name]
    if op == "frame":
        init = {key: command[key] for key in ("service", "reason", "text", "peer", "target", "token", "flags", "version") if key in command}
        kind = command["type"]
        connection.send(frame(TYPES.get(kind, kind), **init) * command.get("times", 1))
    elif op == "send":
        connection.send(bytes.fromhex(command["hex"]) * command.get("times", 1))
    elif op == "waiting":
        say(event="waiting", id=name, bytes=len(connection.out))
    elif op == "pause" or op == "resume":
        connection.reading = op == "resume"
        connection.watch()
    elif op == "shutdown":
        connection.sock.shutdown(socket.SHUT_WR)
    elif op == "close":
        connection.close()
        del connections[name]


def talk():
    selector = selectors.DefaultSelector()
    connections = {}
    os.set_blocking(0, False)
    selector.register(0, selectors.EVENT_READ, None)
    commands = b""
    say(event="ready", uid=os.getuid())
    while True:
        for key, events in selector.select():
            if key.data is None:
                data = os.read(0, 1 << 20)
                if not data:
                    return
                commands += data
                *lines, commands = commands.split(b"\n")
                for line in lines:
                    obey(selector, connections, json.loads(line))
                continue
            if events & selectors.EVENT_WRITE:
                key.data.flush()
            if events & selectors.EVENT_READ and key.data.reading:
                key.data.read()


# ----------------------------------------------------------------------------------------------------------- churn and echo


class Peer:
    """Blocking; with a control connection."""

    def __init__(self, path, peer=None):
        self.path = path
        self.peer = peer or "%s:%d" % (os.urandom(16).hex(), random.randrange(1, 1 << 32))
        self.control = connect(path)
        self.buffer = b""
        self.control.sendall(frame(TYPES["HELLO"], peer=self.peer))
        self.expect("WELCOME")

    def expect(self, kind):
        while True:
            result = parse(self.buffer)
            if result is not None:
                found, used = result
                self.buffer = self.buffer[used:]
                if found["type"] == "PING":
                    self.control.sendall(frame(TYPES["PONG"]))
                    continue
                assert found["type"] == kind, found
                return found
            data = self.control.recv(4096)
            assert data, "the control connection ended"
            self.buffer += data

    def listen(self, service):
        self.control.sendall(frame(TYPES["LISTEN"], service=service))
        self.expect("OK")


def spliced(sock):
    """Reads the SPLICED and not a byte more."""
    data = b""
    while len(data) < 40:
        part = sock.recv(40 - len(data))
        assert part, "the data connection ended"
        data += part
    length = struct.unpack("<I", data[32:36])[0]
    while len(data) < 40 + length:
        part = sock.recv(40 + length - len(data))
        assert part, "the data connection ended"
        data += part
    found, _ = parse(data)
    assert found["type"] == "SPLICED", found
    return found


def join(caller, target, service):
    a = connect(caller.path)
    a.sendall(frame(TYPES["DIAL"], peer=caller.peer, service=service))
    call = target.expect("CALL")
    assert call["peer"] == caller.peer, call
    b = connect(target.path)
    b.sendall(frame(TYPES["TAKE"], peer=target.peer, token=call["token"]))
    assert spliced(a)["peer"] == target.peer
    assert spliced(b)["peer"] == caller.peer
    return a, b


def churn(path, rounds, service):
    target = Peer(path)
    target.listen(service)
    for number in range(rounds):
        caller = Peer(path)
        a, b = join(caller, target, service)
        data = os.urandom(random.randrange(1, 3000))
        a.sendall(data)
        b.sendall(data[::-1])
        for sock, wanted in ((b, data), (a, data[::-1])):
            found = b""
            while len(found) < len(wanted):
                found += sock.recv(65536)
            assert found == wanted
        how = number % 4
        if how == 0:
            a.shutdown(socket.SHUT_WR)
            assert b.recv(1) == b""
            b.close()
            assert a.recv(1) == b""
        elif how == 1:
            b.close()
            assert a.recv(1) == b""
        elif how == 2:
            caller.control.close()
            a.close()
            assert b.recv(1) == b""
        for sock in (a, b, caller.control):
            sock.close()
        # garbage between
        if number % 10 == 0:
            bad = connect(path)
            bad.sendall(os.urandom(200))
            bad.close()
    say(event="churned", rounds=rounds)


def echo(path, size, slow):
    target, caller = Peer(path), Peer(path)
    target.listen("bulk")
    a, b = join(caller, target, "bulk")
    selector = selectors.DefaultSelector()
    state = {}
    chunk = os.urandom(1 << 20)
    for sock, seed in ((a, 1), (b, 2)):
        sock.setblocking(False)
        state[sock] = {"left": size, "at": seed * 1000, "got": 0, "sent": hashlib.sha256(), "read": hashlib.sha256()}
        selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, sock)

    def watch(sock):
        s = state[sock]
        wanted = (selectors.EVENT_WRITE if s["left"] else 0) | (0 if s.get("ended") else selectors.EVENT_READ)
        if wanted:
            selector.modify(sock, wanted, sock)
        else:
            selector.unregister(sock)

    started = time.monotonic()
    if slow:
        # nobody reads: what fits is sent, then it must stop
        stuck = 0
        while True:
            try:
                stuck += a.send(chunk[:65536])
            except BlockingIOError:
                before = stuck
                time.sleep(0.5)
                try:
                    stuck += a.send(chunk[:65536])
                except BlockingIOError:
                    break
        say(event="stuck", bytes=stuck)
        sys.stdin.readline()
        got = 0
        b.setblocking(True)
        while got < stuck:
            got += len(b.recv(65536))
        say(event="drained", bytes=got)
        return
    while any(s["left"] or not s.get("ended") for s in state.values()):
        ready = selector.select(30)
        assert ready, "nothing moves"
        for key, events in ready:
            sock, s = key.fileobj, state[key.fileobj]
            if events & selectors.EVENT_WRITE and s["left"]:
                offset = s["at"] % (len(chunk) - 70000)
                part = chunk[offset:offset + min(s["left"], random.randrange(1, 70000))]
                try:
                    sent = sock.send(part)
                except BlockingIOError:
                    sent = 0
                s["sent"].update(part[:sent])
                s["at"] += sent
                s["left"] -= sent
                if not s["left"]:
                    sock.shutdown(socket.SHUT_WR)
                    watch(sock)
            if events & selectors.EVENT_READ:
                try:
                    data = sock.recv(random.randrange(1, 70000))
                except BlockingIOError:
                    continue
                if not data:
                    s["ended"] = True
                    watch(sock)
                    continue
                s["got"] += len(data)
                s["read"].update(data)
    assert all(s["got"] == size for s in state.values())
    assert state[a]["sent"].digest() == state[b]["read"].digest()
    assert state[b]["sent"].digest() == state[a]["read"].digest()
    say(event="echoed", bytes=size, seconds=time.monotonic() - started)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("mode", choices=["talk", "churn", "echo"])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--size", type=int, default=1 << 20)
    parser.add_argument("--service", default="churn")
    parser.add_argument("--slow", action="store_true")
    arguments = parser.parse_args()
    if arguments.mode == "talk":
        talk()
    elif arguments.mode == "churn":
        churn(arguments.path, arguments.rounds, arguments.service)
    else:
        echo(arguments.path, arguments.size, arguments.slow)


main()
