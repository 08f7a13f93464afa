#!/usr/bin/env python3
"""A server of the ivshmem-server protocol, written from QEMU's docs/specs/ivshmem-spec only; shares no code with vmring.

Serves one mode to every client and prints a line when it listens. Commands on stdin: `join` and `leave` make an invented
peer come and go, `end` closes all connections.

  good            as the specification says (one other peer, id 3, is already there)
  version1        says version 1
  close-after N   sends the first N messages of a good handshake and hangs up (--half: and 3 bytes of the next)
  no-memory-fd    the memory message without a descriptor
  no-vector-fd    the own vector without a descriptor
  two-fds         the memory message with two descriptors
  garbage         random-looking bytes instead of a handshake
  bad-value       a good start, then a value that no peer can have
  mid-garbage     a good handshake, then garbage
  silent          accepts and says nothing
  stall-after N   sends the first N messages, then nothing
  split           a good handshake, byte by byte
"""
import argparse
import array
import os
import select
import socket
import struct
import sys
import time


def eventfd():
    return os.eventfd(0, os.EFD_NONBLOCK) if hasattr(os, "eventfd") else os.pipe()[1]


def send(sock, value, *fds):
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([struct.pack("<q", value)], ancillary)


def send_split(sock, value, *fds):
    data = struct.pack("<q", value)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    sock.sendmsg([data[:1]], ancillary)
    for i in range(1, 8):
        time.sleep(0.002)
        sock.send(data[i:i + 1])


def greet(sock, mode, count, memory, half):
    script = [(0,), (7,), (-1, memory), (3, eventfd()), (3, eventfd()), (7, eventfd()), (7, eventfd())]
    if mode == "version1":
        script = [(1,), (7,)]
    elif mode == "no-memory-fd":
        script[2] = (-1,)
    elif mode == "no-vector-fd":
        script[5] = (7,)
    elif mode == "two-fds":
        script[2] = (-1, memory, eventfd())
    elif mode == "bad-value":
        script[3] = (70000, eventfd())
    elif mode == "garbage":
        sock.send(bytes((i * 73 + 19) & 255 for i in range(64)))
        return
    elif mode == "silent":
        return
    elif mode in ("close-after", "stall-after"):
        script = script[:count]
    for value, *fds in script:
        (send_split if mode == "split" else send)(sock, value, *fds)
    if mode == "close-after":
        if half:
            sock.send(b"\0\0\0")
        sock.close()
    elif mode == "mid-garbage":
        send(sock, -99)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("mode")
    parser.add_argument("count", type=int, nargs="?", default=0)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--region", help="a file to serve as the memory; else 1 MiB of zeros")
    args = parser.parse_args()
    if args.region:
        memory = os.open(args.region, os.O_RDWR)
    else:
        memory = os.memfd_create("ivshmem")
        os.ftruncate(memory, 1 << 20)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(args.path)
    listener.listen(16)
    print("listening", flush=True)
    clients = []
    while True:
        ready = select.select([listener, sys.stdin], [], [])[0]
        if listener in ready:
            sock = listener.accept()[0]
            clients.append(sock)
            try:
                greet(sock, args.mode, args.count, memory, args.half)
            except (BrokenPipeError, ConnectionResetError):
                # a client that has seen enough of it
                pass
        if sys.stdin in ready:
            # not readline: select does not see what its buffer holds
            commands = os.read(0, 4096).split()
            if not commands:
                return
            for command in commands:
                for sock in clients:
                    if command == b"join":
                        send(sock, 9, eventfd())
                    elif command == b"leave":
                        send(sock, 9)
                    elif command == b"end":
                        sock.close()
                if command == b"end":
                    clients = []


main()
