-- Who may come in, and what work costs.

CREATE TABLE api_keys (
    id           uuid PRIMARY KEY,
    user_id      text NOT NULL,
    name         text NOT NULL DEFAULT '',
    -- The first 12 characters of the key, to recognise it by.
    key_prefix   text NOT NULL,
    -- Lower-case hex SHA-256 of the whole key; the key itself is not stored.
    key_hash     text NOT NULL UNIQUE,
    role         text NOT NULL DEFAULT 'user' CHECK (role IN ('user', 'admin')),
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at   timestamptz
);
CREATE INDEX api_keys_by_user ON api_keys (user_id);

CREATE TABLE credit_balances (
    user_id           text PRIMARY KEY,
    available_credits numeric(14,4) NOT NULL DEFAULT 0,
    updated_at        timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE credit_transactions (
    id            uuid PRIMARY KEY,
    user_id       text NOT NULL,
    run_id        uuid REFERENCES agent_runs (id) ON DELETE SET NULL,
    -- A step is charged at most once, whatever crashes.
    step_id       uuid UNIQUE,
    amount        numeric(14,4) NOT NULL,
    balance_after numeric(14,4) NOT NULL,
    created_at    timestamptz NOT NULL
);
CREATE INDEX credit_transactions_by_user ON credit_transactions (user_id, created_at);
