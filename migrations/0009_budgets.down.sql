DROP TABLE budget_reservations;
DROP INDEX token_records_by_time;
ALTER TABLE token_records
    DROP COLUMN user_id,
    DROP COLUMN cached_tokens,
    DROP COLUMN reasoning_tokens,
    DROP COLUMN cost_usd;
