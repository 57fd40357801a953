-- ARGV: lease in ms, owner, incarnation the caller knows ('' for none), incarnation to set when there is none,
-- then per job id, epoch, text, home and
-- 1 if a step has settled since the last renewal (which ends a row of crashes).
-- Returns {present incarnation, 'held' | 'lost' | 'readopted' per job}.
local ttl, owner, known = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local present = call('GET', INCARNATION)
if not present then
  present = ARGV[4]
  call('SET', INCARNATION, present)
end
-- Redis lost its data since the caller last looked.
local emptied = known ~= '' and present ~= known
local out = {}

local function hold(id, m, text)
  m.list = 'processing'
  m.owner = owner
  meta_write(id, m)
  call('HSET', BODY, id, text)
  call('ZADD', LEASE, int(now_ms + ttl), id)
end

local function renew(id, epoch, text, home, settled)
  local m = meta_read(id)
  if not m then
    -- Gone with a lease still there (hand-made damage) or with all of Redis: the caller holds the run, take it
    -- back. Gone alone: it was removed on purpose.
    if not emptied and not call('ZSCORE', LEASE, id) then return 'lost' end
    m = {epoch = epoch, deliveries = 1, home = home, origin = 'own', keep = #text}
    hold(id, m, text)
    if not call('LPOS', PROCESSING, text) then call('LPUSH', PROCESSING, text) end
    return 'readopted'
  end
  if m.epoch ~= epoch then
    -- Pushed again by the reconciler after a loss and not claimed since: still ours.
    if not (m.epoch == 0 and m.list ~= 'processing' and emptied) then return 'lost' end
    m.epoch = epoch
    m.deliveries = 1
  end
  if m.list == 'processing' then
    if settled then
      m.deliveries = 1
      meta_write(id, m)
    end
    call('ZADD', LEASE, int(now_ms + ttl), id)
    return 'held'
  end
  -- Put back by a sweep after the lease ran out, claimed by nobody since.
  local old = call('HGET', BODY, id)
  if old then take_out(id, m, old) end
  call('ZREM', DUE, id)
  m.keep = #text
  hold(id, m, text)
  call('LPUSH', PROCESSING, text)
  return 'readopted'
end

for i = 5, #ARGV, 5 do
  out[#out + 1] = renew(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], ARGV[i + 4] == '1')
end
return {present, out}
