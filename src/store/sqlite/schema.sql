-- The directory, the records of certificates and the audit log. Times are milliseconds since 1970-01-01 UTC; keys are
-- in SSH wire format; fingerprints, token hashes and chain hashes are SHA-256; actors, lists of principals, the limits of
-- projects and the bounds of service accounts (none: a person) are JSON.
--
-- What is deleted keeps its row, so that its name and number stay taken. STRICT, so that a column holds what it says.

CREATE TABLE meta (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    version     INTEGER NOT NULL CHECK (version >= 0),
    next_serial INTEGER NOT NULL CHECK (next_serial >= 1),
    -- Below these nothing is given out, whatever the rows say: a restored backup does not know what came after it.
    id_floor    INTEGER NOT NULL DEFAULT 1,
    uid_floor   INTEGER NOT NULL DEFAULT 0,
    gid_floor   INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO meta (one, version, next_serial) VALUES (1, 0, 1);

CREATE TABLE orgs (
    id      INTEGER PRIMARY KEY,
    name    TEXT NOT NULL UNIQUE,
    created INTEGER NOT NULL
) STRICT;

CREATE TABLE accounts (
    id       INTEGER PRIMARY KEY,
    org      INTEGER NOT NULL REFERENCES orgs (id),
    email    TEXT NOT NULL UNIQUE,
    user     TEXT NOT NULL UNIQUE,
    uid      INTEGER NOT NULL UNIQUE,
    state    TEXT NOT NULL CHECK (state IN ('active', 'suspended')),
    created  INTEGER NOT NULL,
    state_at INTEGER,
    state_by TEXT,
    service  TEXT
) STRICT;

CREATE TABLE keys (
    fingerprint BLOB PRIMARY KEY CHECK (length(fingerprint) = 32),
    account     INTEGER NOT NULL REFERENCES accounts (id),
    key         BLOB NOT NULL,
    added       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE denied_keys (
    fingerprint BLOB PRIMARY KEY CHECK (length(fingerprint) = 32),
    account     INTEGER NOT NULL REFERENCES accounts (id),
    key         BLOB NOT NULL,
    added       INTEGER NOT NULL,
    until       INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE projects (
    id         INTEGER PRIMARY KEY,
    org        INTEGER NOT NULL REFERENCES orgs (id),
    name       TEXT NOT NULL,
    gid        INTEGER NOT NULL UNIQUE,
    admins_gid INTEGER NOT NULL UNIQUE,
    limits     TEXT NOT NULL,
    created    INTEGER NOT NULL,
    deleted_at INTEGER,
    deleted_by TEXT,
    UNIQUE (org, name),
    UNIQUE (id, org),
    CHECK ((deleted_at IS NULL) = (deleted_by IS NULL))
) STRICT;

-- A cluster repeats its project's organization because its name is unique there.
CREATE TABLE clusters (
    id         INTEGER PRIMARY KEY,
    project    INTEGER NOT NULL,
    org        INTEGER NOT NULL,
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL CHECK (kind IN ('slurm', 'kubernetes')),
    revision   INTEGER NOT NULL CHECK (revision >= 1),
    login      INTEGER NOT NULL CHECK (login >= 0),
    compute    INTEGER NOT NULL CHECK (compute >= 0),
    controller INTEGER NOT NULL CHECK (controller >= 0),
    created    INTEGER NOT NULL,
    deleted_at INTEGER,
    deleted_by TEXT,
    UNIQUE (org, name),
    CHECK ((deleted_at IS NULL) = (deleted_by IS NULL)),
    FOREIGN KEY (project, org) REFERENCES projects (id, org)
) STRICT;

-- Every configuration that a cluster has had; the one in force is that of its revision.
CREATE TABLE documents (
    cluster  INTEGER NOT NULL REFERENCES clusters (id),
    revision INTEGER NOT NULL CHECK (revision >= 1),
    document TEXT NOT NULL,
    at       INTEGER NOT NULL,
    PRIMARY KEY (cluster, revision)
) STRICT, WITHOUT ROWID;

CREATE INDEX clusters_of_project ON clusters (project);

CREATE TABLE volumes (
    id         INTEGER PRIMARY KEY,
    project    INTEGER NOT NULL REFERENCES projects (id),
    name       TEXT NOT NULL,
    size       INTEGER NOT NULL CHECK (size > 0),
    mount      TEXT NOT NULL,
    created    INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE UNIQUE INDEX volume_names ON volumes (project, name) WHERE deleted_at IS NULL;

CREATE TABLE nodes (
    id         INTEGER PRIMARY KEY,
    cluster    INTEGER NOT NULL REFERENCES clusters (id),
    name       TEXT NOT NULL,
    role       TEXT NOT NULL CHECK (role IN ('login', 'compute', 'controller')),
    address    TEXT NOT NULL,
    port       INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    key        BLOB NOT NULL,
    enrolled   INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

CREATE UNIQUE INDEX node_names ON nodes (cluster, name) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX node_keys ON nodes (key) WHERE deleted_at IS NULL;

CREATE TABLE tokens (
    hash    BLOB PRIMARY KEY CHECK (length(hash) = 32),
    cluster INTEGER NOT NULL REFERENCES clusters (id),
    node    TEXT NOT NULL,
    role    TEXT NOT NULL CHECK (role IN ('login', 'compute', 'controller')),
    address TEXT,
    port    INTEGER NOT NULL CHECK (port BETWEEN 0 AND 65535),
    by      TEXT NOT NULL,
    expires INTEGER NOT NULL,
    used    INTEGER
) STRICT, WITHOUT ROWID;

-- What the site's machinery was last asked about each cluster and volume.
CREATE TABLE jobs (
    kind     TEXT NOT NULL CHECK (kind IN ('cluster', 'volume')),
    resource INTEGER NOT NULL,
    id       INTEGER NOT NULL,
    action   TEXT NOT NULL CHECK (action IN ('create', 'change', 'scale', 'delete')),
    name     TEXT NOT NULL,
    input    TEXT NOT NULL,
    queued   INTEGER NOT NULL,
    attempts INTEGER NOT NULL CHECK (attempts >= 0),
    next     INTEGER NOT NULL,
    state    TEXT NOT NULL CHECK (state IN ('ready', 'pending', 'failed')),
    reason   TEXT,
    PRIMARY KEY (kind, resource),
    CHECK ((state = 'failed') = (reason IS NOT NULL))
) STRICT, WITHOUT ROWID;

CREATE TABLE memberships (
    project INTEGER NOT NULL REFERENCES projects (id),
    account INTEGER NOT NULL REFERENCES accounts (id),
    role    TEXT NOT NULL CHECK (role IN ('member', 'admin')),
    since   INTEGER NOT NULL,
    by      TEXT NOT NULL,
    PRIMARY KEY (project, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE departures (
    project INTEGER NOT NULL REFERENCES projects (id),
    account INTEGER NOT NULL REFERENCES accounts (id),
    at      INTEGER NOT NULL,
    by      TEXT NOT NULL,
    until   INTEGER,
    PRIMARY KEY (project, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE denied_serials (
    serial  INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES accounts (id),
    until   INTEGER NOT NULL
) STRICT;

CREATE TABLE certificates (
    serial       INTEGER PRIMARY KEY CHECK (serial >= 1),
    account      INTEGER NOT NULL REFERENCES accounts (id),
    key          BLOB NOT NULL CHECK (length(key) = 32),
    principals   TEXT NOT NULL,
    valid_after  INTEGER NOT NULL,
    valid_before INTEGER NOT NULL,
    source       TEXT NOT NULL,
    issued       INTEGER NOT NULL
) STRICT;

CREATE INDEX certificates_by_end ON certificates (valid_before);

CREATE TABLE audit (
    seq         INTEGER PRIMARY KEY CHECK (seq >= 1),
    version     INTEGER NOT NULL,
    at          INTEGER NOT NULL,
    actor       TEXT NOT NULL,
    source      TEXT NOT NULL,
    connection  TEXT,
    action      TEXT NOT NULL,
    object      TEXT NOT NULL,
    outcome     TEXT NOT NULL CHECK (outcome IN ('done', 'refused')),
    reason      TEXT,
    detail      TEXT NOT NULL,
    certificate INTEGER,
    session     TEXT,
    previous    BLOB NOT NULL CHECK (length(previous) = 32),
    hash        BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_action ON audit (action);
CREATE INDEX audit_by_certificate ON audit (certificate) WHERE certificate IS NOT NULL;
CREATE INDEX audit_by_session ON audit (session) WHERE session IS NOT NULL;

CREATE TABLE audit_heads (
    number    INTEGER PRIMARY KEY CHECK (number >= 1),
    seq       INTEGER NOT NULL UNIQUE CHECK (seq >= 1),
    hash      BLOB NOT NULL CHECK (length(hash) = 32),
    at        INTEGER NOT NULL,
    signature BLOB NOT NULL CHECK (length(signature) = 64)
) STRICT;

-- Where the log begins: after the entry of this signed head, which stays. What came before is in the archive. No row: at
-- the first entry.
CREATE TABLE audit_start (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    number INTEGER NOT NULL REFERENCES audit_heads (number)
) STRICT;

-- The log is only ever appended to, and shortened at its beginning. This stops a mistake, not an intruder: for that there
-- are the hash chain and the signed heads.
CREATE TRIGGER audit_is_appended_to BEFORE INSERT ON audit
WHEN NEW.seq <> coalesce((SELECT max(seq) FROM audit), (SELECT seq FROM audit_start JOIN audit_heads USING (number)), 0) + 1
BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit
WHEN OLD.seq > (SELECT coalesce(max(seq), 0) FROM audit_start JOIN audit_heads USING (number)) BEGIN
    SELECT RAISE(ABORT, 'the audit log is only appended to');
END;
CREATE TRIGGER audit_heads_are_appended_to BEFORE INSERT ON audit_heads
WHEN NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM audit_heads) BEGIN
    SELECT RAISE(ABORT, 'signed heads are only appended to');
END;
CREATE TRIGGER audit_heads_are_not_changed BEFORE UPDATE ON audit_heads BEGIN
    SELECT RAISE(ABORT, 'signed heads are only appended to');
END;
CREATE TRIGGER audit_heads_are_not_deleted BEFORE DELETE ON audit_heads
WHEN OLD.number >= (SELECT coalesce(max(number), 0) FROM audit_start) BEGIN
    SELECT RAISE(ABORT, 'signed heads are only appended to');
END;
