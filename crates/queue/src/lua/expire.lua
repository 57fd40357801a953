-- Ends a lease nobody keeps, so that the next sweep puts its job back. ARGV: id, epoch as it was read. Returns 1 or 0.
local m = meta_read(ARGV[1])
if not m or m.epoch ~= tonumber(ARGV[2]) or not call('ZSCORE', LEASE, ARGV[1]) then return 0 end
call('ZADD', LEASE, int(now_ms - 1), ARGV[1])
return 1
