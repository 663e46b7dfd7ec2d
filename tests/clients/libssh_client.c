/* libssh as an ssh client, for the conformance suite:
 *
 *   libssh_client run     [-i KEY] [-c CERTIFICATE] [-J GATEWAY] HOST COMMAND
 *   libssh_client refused [-i KEY] HOST      what a gateway has to say no to, each with its answer
 *   libssh_client jump    [-i KEY] GATEWAY NODE   standard input and output to the node's port 22: what -J starts
 */
#include <errno.h>
#include <libssh/libssh.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK 65536

static void fail(const char *what, ssh_session session)
{
    fprintf(stderr, "%s: %s\n", what, ssh_get_error(session));
    exit(255);
}

static ssh_session dial(const char *host, const char *key, const char *certificate, const char *gateway, char *self)
{
    ssh_session session = ssh_new();
    ssh_key private = NULL;
    int configured = 0;
    long timeout = 60;

    ssh_options_set(session, SSH_OPTIONS_PROCESS_CONFIG, &configured);
    ssh_options_set(session, SSH_OPTIONS_HOST, host);
    ssh_options_set(session, SSH_OPTIONS_USER, "user1");
    ssh_options_set(session, SSH_OPTIONS_TIMEOUT, &timeout);
    /* It looks at no host certificates. */
    ssh_options_set(session, SSH_OPTIONS_KNOWNHOSTS, "known_plain");
    ssh_options_set(session, SSH_OPTIONS_GLOBAL_KNOWNHOSTS, "/dev/null");
    ssh_options_set(session, SSH_OPTIONS_HOSTKEYS, "ssh-ed25519");
    if (gateway) {
        char command[4096];
        snprintf(command, sizeof command, "exec %s jump -i %s %s %s", self, key, gateway, host);
        ssh_options_set(session, SSH_OPTIONS_PROXYCOMMAND, command);
    }
    if (ssh_connect(session) != SSH_OK) fail("connect", session);
    if (ssh_session_is_known_server(session) != SSH_KNOWN_HOSTS_OK) fail("host key", session);
    if (ssh_pki_import_privkey_file(key, NULL, NULL, NULL, &private) != SSH_OK) {
        fprintf(stderr, "%s cannot be read\n", key);
        exit(255);
    }
    if (certificate) {
        ssh_key public = NULL;
        if (ssh_pki_import_cert_file(certificate, &public) != SSH_OK ||
            ssh_pki_copy_cert_to_privkey(public, private) != SSH_OK) {
            fprintf(stderr, "%s cannot be used\n", certificate);
            exit(255);
        }
        if (ssh_userauth_try_publickey(session, NULL, public) != SSH_AUTH_SUCCESS) fail("offer of the certificate", session);
    }
    if (ssh_userauth_publickey(session, NULL, private) != SSH_AUTH_SUCCESS) fail("authentication", session);
    return session;
}

static void write_all(const char *bytes, int length)
{
    while (length > 0) {
        ssize_t written = write(STDOUT_FILENO, bytes, length);
        if (written < 0) exit(255);
        bytes += written;
        length -= written;
    }
}

/* Standard input and output to a channel, until it ends. */
static void carry(ssh_session session, ssh_channel channel)
{
    static char buffer[CHUNK];
    int feeding = 1;
    while (!ssh_channel_is_eof(channel) || ssh_channel_poll(channel, 0) > 0) {
        int count;
        while ((count = ssh_channel_read_nonblocking(channel, buffer, sizeof buffer, 0)) > 0) write_all(buffer, count);
        while ((count = ssh_channel_read_nonblocking(channel, buffer, sizeof buffer, 1)) > 0)
            if (write(STDERR_FILENO, buffer, count) < 0) exit(255);
        if (!ssh_channel_is_open(channel)) break;
        struct pollfd ready[2] = {{ssh_get_fd(session), POLLIN, 0}, {feeding ? STDIN_FILENO : -1, POLLIN, 0}};
        int window = ssh_channel_window_size(channel) > 0;
        if (!window) ready[1].fd = -1;
        if (poll(ready, 2, 1000) < 0 && errno != EINTR) exit(255);
        if (ready[1].fd >= 0 && ready[1].revents) {
            ssize_t got = read(STDIN_FILENO, buffer, sizeof buffer);
            if (got > 0) {
                /* Blocks until the window has taken all of it, and reads meanwhile. */
                if (ssh_channel_write(channel, buffer, got) != got) break;
            } else {
                feeding = 0;
                ssh_channel_send_eof(channel);
            }
        }
    }
}

static ssh_channel opened(ssh_session session)
{
    ssh_channel channel = ssh_channel_new(session);
    if (ssh_channel_open_session(channel) != SSH_OK) fail("session", session);
    return channel;
}

static void answer(const char *name, int granted)
{
    printf("%s: %s\n", name, granted == SSH_OK ? "GRANTED" : granted == SSH_AGAIN ? "NO ANSWER" : "refused");
}

static void refused(ssh_session session)
{
    char line[256] = "";
    ssh_channel channel;
    answer("x11", ssh_channel_request_x11(opened(session), 0, NULL, NULL, 0));
    answer("subsystem", ssh_channel_request_sftp(opened(session)));
    answer("environment", ssh_channel_request_env(opened(session), "A", "b"));
    answer("remote forward", ssh_channel_listen_forward(session, "127.0.0.1", 7777, NULL));
    /* Sent without a wish for an answer: what shows is that the channel is still good for a command. */
    channel = opened(session);
    ssh_channel_request_auth_agent(channel);
    if (ssh_channel_request_exec(channel, "whoami") != SSH_OK) fail("whoami", session);
    ssh_channel_read_timeout(channel, line, sizeof line - 1, 0, 60000);
    printf("after asking for the agent: %.*s\n", (int)strcspn(line, "\n"), line);
}

int main(int count, char **words)
{
    const char *key = ".ssh/id_ed25519", *certificate = NULL, *gateway = NULL, *what = count > 1 ? words[1] : "";
    int option;
    ssh_session session;
    ssh_channel channel;
    optind = 2;
    while ((option = getopt(count, words, "i:c:J:")) != -1) {
        if (option == 'i') key = optarg;
        else if (option == 'c') certificate = optarg;
        else if (option == 'J') gateway = optarg;
        else return 2;
    }
    if (optind >= count) return 2;
    session = dial(words[optind], key, certificate, gateway, words[0]);
    if (!strcmp(what, "refused")) {
        refused(session);
        return 0;
    }
    if (optind + 1 >= count) return 2;
    if (!strcmp(what, "jump")) {
        channel = ssh_channel_new(session);
        if (ssh_channel_open_forward(channel, words[optind + 1], 22, "127.0.0.1", 0) != SSH_OK) fail("forward", session);
        carry(session, channel);
        return 0;
    }
    channel = opened(session);
    if (ssh_channel_request_exec(channel, words[optind + 1]) != SSH_OK) fail("command", session);
    carry(session, channel);
    option = ssh_channel_get_exit_status(channel);
    ssh_disconnect(session);
    return option < 0 ? 255 : option;
}
