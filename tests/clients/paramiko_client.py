"""paramiko as an ssh client, for the conformance suite: each function is one thing that the suite asks of a client.

    paramiko_client.py run     [-i KEY] [-c CERTIFICATE] [-J GATEWAY] HOST COMMAND
    paramiko_client.py refused [-i KEY] HOST        what a gateway has to say no to, each with its answer
"""

import argparse
import os
import socket
import sys
import threading
import time

import paramiko

CHUNK = 1 << 16
# Without these, what hangs would hang until the test's own bound, and say nothing of where.
WAIT = 60


def known(host):
    """The host's plain keys; this library does not look at host certificates."""
    keys = paramiko.HostKeys()
    keys.load("known_plain")
    return keys.lookup(host)


def connect(host, key, certificate, through=None):
    """An authenticated transport, with the host's key checked."""
    where = through.open_channel("direct-tcpip", (host, 22), ("127.0.0.1", 0), timeout=WAIT) if through else None
    transport = paramiko.Transport(where or socket.create_connection((host, 22), WAIT))
    expected = known(host)
    transport.get_security_options().key_types = list(expected.keys())
    transport.start_client(timeout=WAIT)
    offered = transport.get_remote_server_key()
    if expected.get(offered.get_name()) != offered:
        sys.exit(f"{host} has another host key")
    private = paramiko.Ed25519Key.from_private_key_file(key)
    if certificate:
        private.load_certificate(certificate)
    transport.auth_publickey("user1", private)
    return transport


def run(transport, command):
    """A command with this process's standard input and output; its exit status."""
    channel = transport.open_session(timeout=WAIT)
    channel.exec_command(command)

    def feed():
        while data := sys.stdin.buffer.read(CHUNK):
            channel.sendall(data)
        channel.shutdown_write()

    def complain():
        while data := channel.recv_stderr(CHUNK):
            sys.stderr.buffer.write(data)

    helpers = [threading.Thread(target=feed, daemon=True), threading.Thread(target=complain, daemon=True)]
    for helper in helpers:
        helper.start()
    while data := channel.recv(CHUNK):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    helpers[1].join()
    return channel.recv_exit_status()


def refused(transport):
    """Asks for what a gateway does not give."""

    def attempt(name, ask):
        began = time.monotonic()
        try:
            ask()
            print(f"{name}: GRANTED")
        except paramiko.SSHException as error:
            print(f"{name}: refused ({error})" if time.monotonic() - began < WAIT else f"{name}: NO ANSWER")

    def session(ask):
        channel = transport.open_session(timeout=WAIT)
        channel.settimeout(WAIT)
        ask(channel)

    attempt("x11", lambda: session(lambda channel: channel.request_x11(handler=lambda *_: None)))
    attempt("subsystem", lambda: session(lambda channel: channel.invoke_subsystem("sftp")))
    attempt("remote forward", lambda: transport.request_port_forward("127.0.0.1", 7777))
    # Sent without a wish for an answer: what shows is that the connection is still good for a command.
    channel = transport.open_session(timeout=WAIT)
    channel.request_forward_agent(lambda *_: None)
    channel.exec_command("whoami")
    print("after asking for the agent:", channel.makefile().readline().strip())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "refused"])
    parser.add_argument("-i", dest="key", default=".ssh/id_ed25519")
    parser.add_argument("-c", dest="certificate")
    parser.add_argument("-J", dest="gateway")
    parser.add_argument("host")
    parser.add_argument("command", nargs="?")
    said = parser.parse_args()
    try:
        through = connect(said.gateway, said.key, None) if said.gateway else None
        transport = connect(said.host, said.key, said.certificate, through)
        if said.what == "refused":
            refused(transport)
            status = 0
        else:
            status = run(transport, said.command)
        transport.close()
        sys.stdout.flush()
        # Whoever still reads standard input in a thread must not be waited for, and Python's own end sometimes aborts over it.
        os._exit(status)
    except paramiko.SSHException as error:
        sys.exit(f"{type(error).__name__}: {error}")


main()
