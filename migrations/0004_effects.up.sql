-- The effect ledger: which claim of the run began a step and which one settled it. A step that is settled by hand has no claim.
ALTER TABLE agent_steps
    ADD COLUMN claimed_epoch bigint,
    ADD COLUMN settled_epoch bigint;
