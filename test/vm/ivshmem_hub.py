#!/usr/bin/env python3
"""A small server of the ivshmem-server protocol for tests of the VM test bed; written from QEMU's specification only.

  ivshmem_hub.py SOCKET FILE VECTORS     FILE holds the shared memory. Prints "listening"; ends with standard input.
"""
import array
import os
import select
import socket
import struct
import sys


def send(sock, value, fd=None):
    fds = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))] if fd is not None else []
    sock.sendmsg([struct.pack("<q", value)], fds)


def main():
    path, file, vectors = sys.argv[1], sys.argv[2], int(sys.argv[3])
    memory = os.open(file, os.O_RDWR)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(16)
    print("listening", flush=True)
    peers = {}  # socket: (id, eventfds)
    next_id = 0
    while True:
        for ready in select.select([listener, sys.stdin, *peers], [], [])[0]:
            if ready is sys.stdin:
                return
            if ready is listener:
                sock, own = listener.accept()[0], next_id
                next_id += 1  # never used again: QEMU could not bear it
                bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(vectors)]
                send(sock, 0)
                send(sock, own)
                send(sock, -1, memory)
                for other, (number, theirs) in peers.items():
                    for fd in theirs:
                        send(sock, number, fd)
                    for fd in bells:
                        send(other, own, fd)
                for fd in bells:
                    send(sock, own, fd)
                peers[sock] = (own, bells)
            elif ready in peers:
                number, bells = peers.pop(ready)
                ready.close()
                for fd in bells:
                    os.close(fd)
                for other in peers:
                    send(other, number)


main()
