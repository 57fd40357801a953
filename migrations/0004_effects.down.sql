ALTER TABLE agent_steps DROP COLUMN claimed_epoch, DROP COLUMN settled_epoch;
