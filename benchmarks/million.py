"""Very many requests at once, as a year of them would lie there: inserted by SQL instead of posted.

All requests name one model, only the older half names a second, and hardly any names a third. Nearly all are
completed; the newest are under way; some failed, were cancelled or are held. What is not as the service
leaves it: the hashes of trails, subjects and commitments are of the right size but of nothing, and there are
no receipts.
"""

from sqlalchemy import Engine, text

YEAR_SECONDS = 365 * 86_400.0
EVERYBODY, OLDER_HALF, HARDLY_ANY = "everybody", "older-half", "hardly-any"

_BULK = f"""
CREATE TEMPORARY TABLE bulk ON COMMIT DROP AS
SELECT g, 'del_' || replace(gen_random_uuid()::text, '-', '') AS id,
       extract(epoch FROM now())::double precision - 10 - {YEAR_SECONDS} * (1 - g::double precision / :num)
         AS posted_at,
       CASE WHEN g > :num - 200 THEN 'received'
            WHEN g > :num - 2000 THEN 'scheduled'
            WHEN g > :num - 2500 THEN 'running'
            WHEN g % 1000 = 0 THEN 'failed'
            WHEN g % 997 = 0 THEN 'cancelled'
            WHEN g % 250000 = 1 THEN 'held'
            ELSE 'completed' END AS status
FROM generate_series(1, :num) AS g
"""
_REQUESTS = """
INSERT INTO requests (id, tenant, status, subject_type, subject_refs, record_refs, is_narrowed_by_models,
                      match_mac, commitment, nonce, posted_at, due_at, seal_at, reveal_at, sealed_at,
                      completed_at)
SELECT id, :tenant, status, 'person',
       CASE WHEN status <> 'completed' THEN json_build_array(encode(sha256(id::bytea), 'hex')) END,
       'null', false, CASE WHEN status <> 'completed' THEN sha256(('match' || id)::bytea) END,
       sha256(('commitment' || id)::bytea),
       CASE WHEN status <> 'completed' THEN sha256(('nonce' || id)::bytea) END, posted_at,
       posted_at + CASE WHEN g % 10 = 0 THEN 7 ELSE 30 END * 86400.0, posted_at, posted_at + 6, posted_at + 1,
       CASE WHEN status = 'completed' THEN posted_at + 3600 END
FROM bulk
"""
_TARGETS = """
INSERT INTO targets (id, request_id, model_id, status, outcome, is_late, posted_at, done_at)
SELECT 'tgt_' || replace(gen_random_uuid()::text, '-', ''), id, :model_id,
       CASE WHEN status IN ('received', 'held') THEN 'scheduled' ELSE status END,
       CASE WHEN status = 'completed' THEN 'no_data' END, false, posted_at,
       CASE WHEN status = 'completed' THEN posted_at + 3600 END
FROM bulk
"""
_SUPPRESSIONS = f"""
INSERT INTO suppressions (tenant, request_id, subject_ref, expires_at)
SELECT :tenant, id, sha256(id::bytea), posted_at + 3 * {YEAR_SECONDS} FROM bulk
"""
_EVENTS = """
INSERT INTO events (request_id, sequence, at, name, body, previous_hash, hash)
SELECT id, n, posted_at + n, (ARRAY['received', 'scheduled', 'completed'])[n], '{}',
       encode(sha256((id || n - 1)::bytea), 'hex'), encode(sha256((id || n)::bytea), 'hex')
FROM bulk, generate_series(1, CASE status WHEN 'completed' THEN 3 WHEN 'received' THEN 1 ELSE 2 END) AS n
"""
NAMED_BY = {
    EVERYBODY: "true",
    OLDER_HALF: "g <= (SELECT max(g) / 2 FROM bulk)",
    HARDLY_ANY: "g % 20000 = 7",
}


def insert_many(engine: Engine, num: int, *, tenant: str, model_ids: dict[str, str]) -> None:
    """Insert ``num`` requests spread over the last year; ``model_ids`` has one id for each kind of model."""
    with engine.begin() as connection:
        # All that is referred to exists: checking each row would take longer than inserting it.
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        connection.execute(text(_BULK), {"num": num})
        connection.execute(text(_REQUESTS), {"tenant": tenant})
        for name, model_id in model_ids.items():
            targets = text(f"{_TARGETS} WHERE {NAMED_BY[name]}")
            connection.execute(targets, {"model_id": model_id})
        connection.execute(text(_SUPPRESSIONS), {"tenant": tenant})
        connection.execute(text(_EVENTS))
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))
        # Otherwise the server writes all this to the disk while the load is measured.
        connection.execute(text("CHECKPOINT"))
