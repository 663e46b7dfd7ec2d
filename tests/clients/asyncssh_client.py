"""asyncssh as an ssh client, for the conformance suite; the same words as paramiko_client.py."""

import argparse
import asyncio
import sys

import asyncssh

CHUNK = 1 << 16
WAIT = 60


async def connect(host, key, certificate, through=None):
    """An authenticated connection; the node's host certificate is checked against the CA in known_hosts."""
    pair = (key, certificate) if certificate else key
    return await asyncssh.connect(
        host,
        22,
        tunnel=through or (),
        username="user1",
        client_keys=[pair],
        agent_path=None,
        config=None,
        known_hosts=".ssh/known_hosts",
        login_timeout=WAIT,
    )


async def run(connection, command):
    """A command with this process's standard input and output; its exit status."""
    process = await connection.create_process(command, encoding=None)

    async def feed():
        while data := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK):
            process.stdin.write(data)
            await process.stdin.drain()
        process.stdin.write_eof()

    async def complain():
        while data := await process.stderr.read(CHUNK):
            sys.stderr.buffer.write(data)

    feeding, complaining = asyncio.create_task(feed()), asyncio.create_task(complain())
    while data := await process.stdout.read(CHUNK):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    await asyncio.gather(complaining, return_exceptions=True)
    feeding.cancel()
    await process.wait()
    return process.exit_status if process.exit_status is not None else 255


async def refused(connection):
    """Asks for what a gateway does not give."""

    async def attempt(name, ask):
        try:
            granted = await asyncio.wait_for(ask, WAIT)
            print(f"{name}: refused" if granted is None else f"{name}: GRANTED")
        except (asyncssh.Error, asyncssh.ChannelListenError, OSError) as error:
            print(f"{name}: refused ({error})")
        except asyncio.TimeoutError:
            print(f"{name}: NO ANSWER")

    await attempt("x11", connection.create_process("whoami", x11_forwarding=True, x11_display="127.0.0.1:0"))
    await attempt("subsystem", connection.start_sftp_client())
    await attempt("remote forward", connection.forward_remote_port("127.0.0.1", 7777, "127.0.0.1", 22))
    await attempt("remote socket", connection.forward_remote_path("/tmp/remote", "/tmp/local"))
    await attempt("socket", connection.create_unix_connection(asyncssh.SSHTCPSession, "/run/certgate/admin.sock"))
    # Not create_tun(): russh 0.65.1 answers a channel of a type that it does not know twice, and the client leaves.
    result = await connection.run("whoami", env={"A": "b"})
    print("after asking for variables:", result.stdout.splitlines()[0])


async def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["run", "refused"])
    parser.add_argument("-i", dest="key", default=".ssh/id_ed25519")
    parser.add_argument("-c", dest="certificate")
    parser.add_argument("-J", dest="gateway")
    parser.add_argument("host")
    parser.add_argument("command", nargs="?")
    said = parser.parse_args()
    try:
        through = await connect(said.gateway, said.key, None) if said.gateway else None
        connection = await connect(said.host, said.key, said.certificate, through)
        if said.what == "refused":
            await refused(connection)
            return 0
        return await run(connection, said.command)
    except (asyncssh.Error, OSError) as error:
        return f"{type(error).__name__}: {error}"


sys.exit(asyncio.run(main()))
