-- Replaces the text of a job in hand, and makes a job pushed by hand a proper one.
-- ARGV: id, epoch, new id, new home, new text, origin to note ('' keeps it). Returns 'ok', 'duplicate', 'stale' or 'gone'.
local id, epoch, new_id, home, text, origin = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local m, old = meta_read(id), call('HGET', BODY, id)
if not m or not old then
  -- The answer of an earlier try was lost: done already.
  local done = meta_read(new_id)
  return done and done.epoch == epoch and 'ok' or 'gone'
end
if m.epoch ~= epoch or m.list ~= 'processing' then return 'stale' end
if new_id ~= id and call('HEXISTS', META, new_id) == 1 then
  take_out(id, m, old)
  forget(id)
  return 'duplicate'
end
local lease = call('ZSCORE', LEASE, id) or int(now_ms)
if origin ~= '' then m.origin = origin end
m.home = home
m.keep = #text
meta_write(new_id, m)
call('HSET', BODY, new_id, text)
take_out(id, m, old)
call('LPUSH', PROCESSING, text)
if new_id ~= id then forget(id) end
call('ZADD', LEASE, lease, new_id)
return 'ok'
