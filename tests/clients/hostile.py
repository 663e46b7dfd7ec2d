"""Peers that keep to no rule, for tests/hostile.rs: paramiko exchanges the keys, and what follows is written by hand.

    hostile.py ATTACK GATEWAY SOURCE

repeats an attack from the address SOURCE, with the key .ssh/id_ed25519 where it needs to be somebody, until its standard
input ends. It says 'begun' when it is under way, and in the end what it counted.
"""

import collections
import logging
import os
import select
import socket
import struct
import sys
import threading
import time

import paramiko
from hostile_peer import *

# What a round does that is repeated: bounded, whatever happens to the test.
DEADLINE = time.monotonic() + 100
counted = collections.Counter()


# --- Before anybody is known ------------------------------------------------------------------------------------------


def silent():
    """As many connections as fit, which say nothing; more are turned away."""
    peers = []
    for _ in range(200):
        try:
            peer = dial()
            peer.settimeout(WAIT)
            counted["greeted" if peer.recv(100).startswith(b"SSH-2.0-") else "turned away"] += 1
            peers.append(peer)
        except OSError:
            counted["turned away"] += 1
    begun()
    while more():
        time.sleep(0.1)


class Drip:
    """A socket that sends one byte at a time."""

    def __init__(self):
        self.socket = dial()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data):
        for byte in data:
            self.socket.sendall(bytes([byte]))
        return len(data)

    def __getattr__(self, name):
        return getattr(self.socket, name)


def bytewise():
    """Slow and in pieces, but by the rules: it gets in."""
    peer = Peer(Drip()).login()
    channel = peer.session()
    peer.send(REQUEST, number(channel), string("exec"), b"\1", string("whoami"))
    peer.answer(DATA)
    counted["served"] += 1
    peer.close()


def until_cut(peer, chunks):
    """Sends until the gateway has had enough."""
    peer.settimeout(WAIT)
    sent = 0
    try:
        for chunk in chunks:
            peer.sendall(chunk)
            sent += len(chunk)
        while peer.recv(1 << 16):
            pass
    except OSError:
        pass
    counted["most bytes heard"] = max(counted["most bytes heard"], sent)
    counted["cut"] += 1
    peer.close()


def banner():
    """A version line without an end."""
    until_cut(dial(), (b"SSH-2.0-" + b"x" * 65536 for _ in range(1600)))


def lengths():
    """Packets that say they are large, before and in place of the key exchange."""
    for length in (0xFFFFFFFF, 0x7FFFFFFF, 0x10000000, 300_000, 0, 1):
        peers = [dial() for _ in range(10)]
        for peer in peers:
            peer.sendall(b"SSH-2.0-hostile\r\n" + struct.pack(">I", length) + b"\x04\x14")
        for peer in peers:
            until_cut(peer, (b"\0" * 65536 for _ in range(64)))


def exchanges():
    """Key exchanges that begin with lists of names without an end, or are begun again and again."""
    names = ",".join(f"kex-{n}@example.com" for n in range(1000))
    lists = b"".join(string(names) for _ in range(10))
    payload = bytes([20]) + b"c" * 16 + lists + b"\0" + number(0)
    padding = 8 - (len(payload) + 5) % 8 + 8
    packet = struct.pack(">IB", len(payload) + padding + 1, padding) + payload + b"\0" * padding
    for _ in range(10):
        peer = dial()
        until_cut(peer, [b"SSH-2.0-hostile\r\n"] + [packet] * 50)
    peer = Peer()
    for _ in range(10):
        try:
            peer.transport.renegotiate_keys()
            counted["new keys"] += 1
        except (paramiko.SSHException, EOFError, OSError):
            break
    peer.close()


def offers():
    """Keys without an end, on many connections: as many as are heard, and large ones, and those that are none."""
    blobs = [string("ssh-ed25519") + string(os.urandom(32)) for _ in range(40)]
    large = string("ssh-rsa") + string(b"\1\0\1") + string(b"\0" + b"\xff" * 200_000)
    broken = [b"", number(0xFFFFFFFF), string("ssh-ed25519"), string("ssh-ed25519") + number(0x7FFFFFFF) + b"x"]
    for first in (large, *broken, None):
        peer = Peer()
        peer.service()
        try:
            if first is not None:
                peer.offer("user1", first, "rsa-sha2-512" if first is large else "ssh-ed25519")
                kind, _ = peer.answer(USERAUTH_FAILURE, USERAUTH_PK_OK)
                counted["LET IN"] += kind == USERAUTH_PK_OK
            for blob in blobs:
                peer.offer("user1", blob)
                peer.answer(USERAUTH_FAILURE, USERAUTH_PK_OK)
                counted["heard"] += 1
            counted["HEARD OUT"] += 1
        except Gone:
            counted["cut"] += 1
        peer.close()


def users():
    """What was said under one name is of no use under another, nor what was offered with one key for another."""
    mine, stranger = own(), other()
    tries = {
        "a key that was offered, proved by another": lambda peer: (
            peer.offer("user1", mine.asbytes()),
            peer.prove("user1", stranger, mine.asbytes()),
        ),
        "a signature for another user": lambda peer: peer.prove("user2", mine, signed_user="user1"),
        "the other way round": lambda peer: peer.prove("user1", mine, signed_user="joining"),
        "offered by one user, proved by another": lambda peer: (
            peer.offer("user1", mine.asbytes()),
            peer.prove("root", stranger),
        ),
        "joining, and then somebody": lambda peer: (
            peer.offer("joining", mine.asbytes()),
            peer.prove("user1", stranger),
        ),
    }
    for what, attempt in tries.items():
        peer = Peer()
        peer.service()
        try:
            attempt(peer)
            kind = USERAUTH_PK_OK
            while kind == USERAUTH_PK_OK:
                kind, _ = peer.answer(USERAUTH_FAILURE, USERAUTH_PK_OK, USERAUTH_SUCCESS)
            counted["refused" if kind == USERAUTH_FAILURE else "LET IN: " + what] += 1
        except Gone:
            counted["refused"] += 1
        peer.close()
    # Whoever has switched is who has proved it, and nobody else.
    peer = Peer()
    peer.service()
    peer.prove("root", stranger)
    peer.answer(USERAUTH_FAILURE)
    peer.prove("nobody", mine)
    if peer.answer(USERAUTH_SUCCESS, USERAUTH_FAILURE)[0] == USERAUTH_SUCCESS:
        peer.send(REQUEST, number(peer.session()), string("exec"), b"\1", string("whoami"))
        said = peer.answer(DATA)[1].asbytes()
        counted["herself" if b"You are user1@acme.example" in said else "SOMEBODY ELSE"] += 1
        # A second login on the same connection changes nothing: it is not even answered (RFC 4252, section 5.1).
        peer.prove("joining", stranger)
        peer.send(REQUEST, number(peer.session()), string("exec"), b"\1", string("whoami"))
        said = peer.answer(DATA)[1].asbytes()
        counted["still herself" if b"You are user1@acme.example" in said else "SOMEBODY ELSE"] += 1
        counted["LET IN TWICE"] += peer.tally[USERAUTH_SUCCESS] > 1
    peer.close()


def early():
    """What needs a login, without one."""
    node = string("login-0.h100-cluster-1.acme") + number(22) + string("127.0.0.1") + number(1)
    asked = {
        OPEN: string("session") + number(0) + number(1 << 21) + number(1 << 15),
        REQUEST: number(0) + string("exec") + b"\1" + string("whoami"),
        GLOBAL_REQUEST: string("tcpip-forward") + b"\1" + string("") + number(7778),
        DATA: number(0) + string("x"),
        WINDOW: number(0) + number(1),
        USERAUTH_SUCCESS: b"",
        SERVICE_REQUEST: string("ssh-connection"),
        CLOSE: number(0),
    }
    for kind, parts in [*asked.items(), (OPEN, string("direct-tcpip") + number(0) + number(1) + number(1) + node)]:
        for authenticating in (False, True):
            peer = Peer()
            try:
                if authenticating:
                    peer.service()
                    peer.offer("user1", own().asbytes())
                    peer.answer(USERAUTH_PK_OK)
                peer.send(kind, parts)
                # Were it served, there would be an answer; and the login that follows tells that this one was heard.
                if not authenticating:
                    peer.service()
                peer.prove("user1", other())
                peer.answer(USERAUTH_FAILURE)
            except Gone:
                counted["cut"] += 1
            served = [peer.tally[kind] for kind in (OPENED, SUCCESS, REQUEST_SUCCESS, DATA, USERAUTH_SUCCESS)]
            counted["SERVED"] += sum(served)
            counted["asked"] += 1
            peer.close()


# --- After a login ----------------------------------------------------------------------------------------------------


def opens():
    """Channels of every kind, without an end and without a close."""
    peer = Peer().login()
    node = string("no-such-node.acme") + number(22) + string("127.0.0.1") + number(1)
    try:
        for n in range(3000):
            peer.open(n)
            if n % 10 == 0:
                peer.open(n, "direct-tcpip", node)
                peer.open(n, "direct-streamlocal@openssh.com", string("/run/certgate/admin.sock") + string("") + number(0))
                peer.open(n, "forwarded-tcpip", node)
                peer.open(n, "x11", string("127.0.0.1") + number(1))
                peer.open(n, "nonsense@example.com")
        peer.until(lambda: peer.tally[OPENED] + peer.tally[OPEN_FAILED] >= 4500)
    except Gone:
        counted["cut"] += 1
    counted["most opened"] = max(counted["most opened"], peer.tally[OPENED])
    counted["refused"] += peer.tally[OPEN_FAILED]
    peer.close()


def execs():
    """Commands without an end: many on each of many channels, and more requests than make sense."""
    peer = Peer().login()
    try:
        channels = [channel for channel in (peer.session() for _ in range(70)) if channel is not None]
        counted["most channels"] = max(counted["most channels"], len(channels))
        lines = ["whoami", "x" * 30_000, "member list " * 1000]
        for channel in channels:
            lines.append(lines.pop(0))
            for line in lines:
                peer.send(REQUEST, number(channel), string("exec"), b"\1", string(line))
            for kind, more_of_it in (
                ("shell", b""),
                ("auth-agent-req@openssh.com", b""),
                ("nonsense@example.com", string(b"x" * 1000)),
                ("subsystem", string("certgate-node")),
                ("env", string("A") + string(b"x" * 30_000)),
            ):
                peer.send(REQUEST, number(channel), string(kind), b"\1", more_of_it)
        # Each channel ends with the answer of its first command, and may have ended before the rest is heard.
        peer.until(lambda: peer.tally[CLOSE] >= len(channels))
        counted["ended"] += peer.tally[CLOSE]
        counted["refused"] += peer.tally[FAILURE]
    except Gone:
        counted["cut"] += 1
    peer.close()


def requests():
    """Global requests, keepalives and messages that mean nothing, faster than anybody needs them."""
    peer = Peer().login()
    asked = 0
    try:
        for _ in range(3000):
            peer.send(GLOBAL_REQUEST, string("keepalive@openssh.com"), b"\1")
            peer.send(GLOBAL_REQUEST, string("tcpip-forward"), b"\1", string("127.0.0.1"), number(7779))
            asked += 2
        for _ in range(2000):
            peer.send(IGNORE, string(b"x" * 30_000))
            peer.send(DEBUG, b"\1", string(b"x" * 30_000), string(""))
            peer.send(UNIMPLEMENTED, number(7))
        peer.until(lambda: peer.tally[REQUEST_FAILURE] + peer.tally[REQUEST_SUCCESS] >= asked)
    except Gone:
        counted["cut"] += 1
    counted["GRANTED"] += peer.tally[REQUEST_SUCCESS]
    counted["refused"] += peer.tally[REQUEST_FAILURE]
    peer.close()


class Deaf:
    """A socket that stops reading when it is told to."""

    def __init__(self):
        self.socket = dial()
        self.hears = True

    def recv(self, size):
        while not self.hears:
            time.sleep(0.05)
        return self.socket.recv(size)

    def __getattr__(self, name):
        return getattr(self.socket, name)


def deaf():
    """Asks for what has answers, and reads none of them: the gateway stops listening, and keeps little."""
    wire = Deaf()
    peer = Peer(wire).login()
    channel = peer.session()
    wire.hears = False
    asked = [0]

    def ask():
        try:
            while asked[0] < 1_000_000:
                peer.send(GLOBAL_REQUEST, string("keepalive@openssh.com"), b"\1")
                peer.send(REQUEST, number(channel), string("nonsense"), b"\1")
                asked[0] += 2
        except Gone:
            pass

    threading.Thread(target=ask, daemon=True).start()
    before = -1
    while asked[0] != before:
        before = asked[0]
        time.sleep(1)
    counted["stopped listening"] += before < 1_000_000
    counted["most asked"] = max(counted["most asked"], before)
    wire.socket.close()


def closed():
    """Data and more on channels that are closed, or never were."""
    for channel in (0, 7, 0x7FFFFFFF, 0xFFFFFFFF):
        peer = Peer().login()
        try:
            mine = peer.session()
            peer.send(CLOSE, number(mine))
            peer.answer(CLOSE)
            for target in (mine, channel):
                for _ in range(20):
                    peer.send(DATA, number(target), string(b"x" * 30_000))
                    peer.send(WINDOW, number(target), number(0xFFFFFFFF))
                    peer.send(REQUEST, number(target), string("exec"), b"\1", string("whoami"))
                    peer.send(EOF, number(target))
                    peer.send(CLOSE, number(target))
                    peer.send(SUCCESS, number(target))
            # All of this may cross the gateway's own close on its way, so nobody is punished for it.
            if peer.session() is not None:
                counted["still served"] += 1
            # But this cannot.
            peer.send(OPENED, number(channel), number(1), number(1), number(1))
            peer.until(lambda: False)
            counted["cut"] += 1
        except Gone:
            counted["CUT TOO EARLY"] += 1
        counted["SERVED"] += peer.tally[DATA]
        peer.close()


def windows():
    """Far more data than the window permits, on a channel that nobody reads."""
    peer = Peer().login()
    channel = peer.session()
    try:
        for _ in range(3000):
            peer.send(DATA, number(channel), string(b"x" * 32_000))
    except Gone:
        counted["cut"] += 1
    counted["floods"] += 1
    peer.close()


def nonsense():
    """Every kind of message with bytes that mean nothing, before and after a login."""
    for kind in (kind for kind in range(1, 111) if kind not in (20, 21)):
        peer = Peer()
        try:
            if kind % 2:
                peer.login()
            for size in (0, 1, 4, 40, 400):
                peer.send(kind, os.urandom(size))
                peer.send(kind, number(0xFFFFFFFF) + os.urandom(size))
                counted["sent"] += 2
        except Gone:
            counted["cut"] += 1
        counted["LET IN"] += peer.tally[USERAUTH_SUCCESS] if not kind % 2 else 0
        peer.close()


def begun():
    if not counted["rounds"]:
        print("begun", flush=True)
    counted["rounds"] += 1


def more():
    """Whether the test wants more of it."""
    ready, _, _ = select.select([sys.stdin], [], [], 0)
    return not ready and time.monotonic() < DEADLINE


def main():
    logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)
    attack = globals()[sys.argv[1]]
    if attack is not silent:
        begun()
    while True:
        attack()
        if not more():
            break
        begun()
    print(*(f"{what}: {count};" for what, count in sorted(counted.items()) if count), "end", flush=True)
    # Threads of connections that are left over need not be waited for.
    os._exit(0)


main()
