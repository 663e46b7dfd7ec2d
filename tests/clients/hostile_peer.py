"""What hostile.py has at its disposal: a connection on which any message can be sent once the keys are exchanged."""

import collections
import queue
import socket
import struct
import sys
import time

import paramiko
from paramiko.message import Message

# Without it, what hangs would hang until the test's own bound, and say nothing of where.
WAIT = 50

DISCONNECT, IGNORE, UNIMPLEMENTED, DEBUG, SERVICE_REQUEST, SERVICE_ACCEPT = 1, 2, 3, 4, 5, 6
USERAUTH_REQUEST, USERAUTH_FAILURE, USERAUTH_SUCCESS, USERAUTH_PK_OK = 50, 51, 52, 60
GLOBAL_REQUEST, REQUEST_SUCCESS, REQUEST_FAILURE = 80, 81, 82
OPEN, OPENED, OPEN_FAILED, WINDOW, DATA, EOF, CLOSE = 90, 91, 92, 93, 94, 96, 97
REQUEST, SUCCESS, FAILURE = 98, 99, 100


class Gone(Exception):
    """The gateway has ended the connection."""


def dial():
    """To the gateway, from the address that this attack has for its own."""
    return socket.create_connection((sys.argv[2], 22), WAIT, (sys.argv[3], 0))


def string(value):
    value = value.encode() if isinstance(value, str) else value
    return struct.pack(">I", len(value)) + value


def number(value):
    return struct.pack(">I", value)


class Peer:
    """A connection after its key exchange."""

    def __init__(self, wire=None):
        self.transport = paramiko.Transport(wire or dial())
        self.answers = queue.Queue()
        self.tally = collections.Counter()
        self.transport.start_client(timeout=WAIT)
        for kind in range(5, 101):
            if kind not in range(20, 42):
                self.transport._handler_table[kind] = lambda message, kind=kind: self.heard(kind, message)

    def heard(self, kind, message):
        self.tally[kind] += 1
        # Of a flood, the count is enough.
        if self.answers.qsize() < 1000:
            self.answers.put((kind, message))

    def send(self, kind, *parts):
        if not self.transport.is_active():
            raise Gone
        message = Message()
        message.add_bytes(bytes([kind]) + b"".join(parts))
        try:
            self.transport._send_message(message)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Gone from error

    def answer(self, *kinds):
        """The next message of these kinds."""
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:
            try:
                kind, message = self.answers.get(timeout=0.2)
            except queue.Empty:
                if not self.transport.is_active():
                    raise Gone from None
                continue
            if kind in kinds:
                return kind, message
        sys.exit(f"no answer of {kinds} in {WAIT} s")

    def until(self, holds):
        """Waits until as much was heard, or the connection has ended."""
        deadline = time.monotonic() + WAIT
        while not holds() and self.transport.is_active():
            if time.monotonic() > deadline:
                sys.exit(f"no more answers after {dict(self.tally)}")
            time.sleep(0.01)

    def service(self):
        self.send(SERVICE_REQUEST, string("ssh-userauth"))
        self.answer(SERVICE_ACCEPT)

    def offer(self, user, blob, algorithm="ssh-ed25519"):
        request = string(user) + string("ssh-connection") + string("publickey")
        self.send(USERAUTH_REQUEST, request, b"\0", string(algorithm), string(blob))

    def prove(self, user, key, blob=None, signed_user=None):
        """A signature by `key`, for the user and the key that are said, or those that differ from them."""
        blob = blob or key.asbytes()
        tail = string("ssh-connection") + string("publickey") + b"\1" + string("ssh-ed25519") + string(blob)
        signed = string(self.transport.session_id) + bytes([USERAUTH_REQUEST]) + string(signed_user or user) + tail
        self.send(USERAUTH_REQUEST, string(user), tail, string(key.sign_ssh_data(signed, "ssh-ed25519").asbytes()))

    def login(self, key=None):
        self.service()
        self.prove("user1", key or own())
        if self.answer(USERAUTH_SUCCESS, USERAUTH_FAILURE)[0] != USERAUTH_SUCCESS:
            sys.exit("the account's own key was refused")
        return self

    def open(self, number_here, kind="session", more=b""):
        self.send(OPEN, string(kind), number(number_here), number(1 << 21), number(1 << 15), more)

    def session(self):
        """A session channel; its number at the gateway."""
        self.open(0)
        kind, message = self.answer(OPENED, OPEN_FAILED)
        message.get_int()
        return message.get_int() if kind == OPENED else None

    def close(self):
        self.transport.close()


def own():
    return paramiko.Ed25519Key.from_private_key_file(".ssh/id_ed25519")


def other():
    return paramiko.Ed25519Key.from_private_key_file("stranger")
