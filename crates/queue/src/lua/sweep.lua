-- Heals what crashes and hands left behind. ARGV: guard in ms, most repairs per sweep.
-- Returns nil when there is nothing to look at or another sweep ran within the guard, else {reclaimed, orphans, restored, dropped}.
local guard, most = tonumber(ARGV[1]), tonumber(ARGV[2])
if call('EXISTS', LEASE, PROCESSING, SUSPECTS) == 0 then return nil end -- nothing is held, nothing can be wrong
if not call('SET', GUARD, '1', 'PX', int(guard), 'NX') then return nil end
local reclaimed, orphans, restored, dropped = 0, 0, 0, 0

local function back_to_front(id, m, text)
  if m.origin == 'raw' then
    forget(id)
  else
    m.list = m.home
    meta_write(id, m)
    call('ZREM', LEASE, id)
  end
  call('RPUSH', LIST[m.home], text)
  wake()
end

-- 1. Leases that ran out: front of the line, the oldest last so that it comes first.
local expired = call('ZRANGEBYSCORE', LEASE, '-inf', int(now_ms), 'LIMIT', 0, most)
for i = #expired, 1, -1 do
  local id = expired[i]
  local m, text = meta_read(id), call('HGET', BODY, id)
  if m and text and m.list == 'processing' then
    meta_write(id, m)
    take_out(id, m, text)
    back_to_front(id, m, text)
    reclaimed = reclaimed + 1
  else
    call('ZREM', LEASE, id)
    dropped = dropped + 1
  end
end

-- 2. Elements in processing that no lease covers, seen in two sweeps running; and leases without an element.
local covered = {}
for _, id in ipairs(call('ZRANGE', LEASE, 0, -1)) do
  local text = call('HGET', BODY, id)
  if text then
    covered[text] = covered[text] or {id = id, missing = 0}
    covered[text].missing = covered[text].missing + 1
  end
end
local suspects = {}
for _, text in ipairs(call('LRANGE', PROCESSING, 0, -1)) do
  local cover = covered[text]
  if cover and cover.missing > 0 then
    cover.missing = cover.missing - 1
  else
    suspects[#suspects + 1] = {text, cover ~= nil}
  end
end

local function requeue_orphan(text, copy)
  local id = job_id_of(text)
  local m = id and call('HGET', BODY, id) == text and meta_read(id)
  if not m then
    call('RPUSH', PENDING, text)
  elseif not copy and (m.list == 'processing' or not call('LPOS', LIST[m.list], text)) then
    m.list = m.home
    meta_write(id, m)
    call('RPUSH', LIST[m.home], text)
  end
  -- From the tail: the held copy of the same text, if there is one, is as good at either end.
  call('LREM', PROCESSING, -1, text)
  wake()
end

local before = {}
for _, text in ipairs(call('SMEMBERS', SUSPECTS)) do before[text] = true end
call('DEL', SUSPECTS)
for _, suspect in ipairs(suspects) do
  if before[suspect[1]] and orphans < most then
    requeue_orphan(suspect[1], suspect[2])
    orphans = orphans + 1
  else
    call('SADD', SUSPECTS, suspect[1])
  end
end

for text, cover in pairs(covered) do
  local m = cover.missing > 0 and meta_read(cover.id)
  if m and m.list == 'processing' and restored < most then
    if m.origin ~= 'raw' then call('LREM', LIST[m.home], 0, text) end
    call('LPUSH', PROCESSING, text)
    restored = restored + 1
  end
end
return {reclaimed, orphans, restored, dropped}
