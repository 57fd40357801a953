-- Claims whatever is there, one by one: due retries, elements pushed or moved by hand, what an earlier claim of ours got
-- without our knowing.
-- ARGV: how many, lease in ms, owner stamp of this claim, stamps of claims whose answer was lost (joined by
-- blanks, may be empty), then one fresh id per wanted job. Returns the same as `claim.lua`.
local want, ttl, owner, lost = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local fresh = 4
local claimed = 0
local rows = {}
local moves_left = want * 4 + 64
local due_left = 64 -- in a list of 100,000 each costs 0.1 ms, and nobody else is served meanwhile

-- The element is at the head of processing already; count the delivery before it runs, so that a crash counts.
-- `body` is the text that `jobs:body` holds.
local function deliver(id, m, text, body)
  m.epoch = math.max(math.abs(m.epoch) + 1, now_us)
  m.deliveries = m.deliveries + 1
  m.list = 'processing'
  m.owner = owner
  m.keep = #text
  local meta = meta_text(m)
  call('HSET', META, id, meta)
  if body ~= text then call('HSET', BODY, id, text) end
  call('ZADD', LEASE, int(now_ms + ttl), id)
  local n = claimed * 3
  rows[n + 1], rows[n + 2], rows[n + 3] = id, meta, text
  claimed = claimed + 1
end

local function drop_second_copy(text)
  if call('LPOS', PROCESSING, text, 'RANK', 2) then call('LREM', PROCESSING, 1, text) end
end

-- One element from the far end of a list; false when the list is empty.
local function take(name)
  local text = call('LMOVE', LIST[name], PROCESSING, 'RIGHT', 'LEFT')
  if not text then return false end
  moves_left = moves_left - 1
  local id = job_id_of(text)
  local m = id and call('HGET', BODY, id) == text and meta_read(id)
  if not m then
    -- Pushed by hand: leased at once under a fresh id, made whole by the caller.
    fresh = fresh + 1
    deliver(ARGV[fresh], {epoch = 0, deliveries = 0, home = name, origin = 'raw'}, text)
  elseif m.list == 'processing' and call('ZSCORE', LEASE, id) then
    drop_second_copy(text)
  else
    if m.list == 'processing' then
      drop_second_copy(text)
    elseif m.list ~= name then
      take_out(id, m, text)
      call('ZREM', DUE, id)
    end
    local clean = plain(text, m)
    if clean ~= text then call('LSET', PROCESSING, 0, clean) end
    deliver(id, m, clean, text)
  end
  return true
end

local function take_due()
  local ids = call('ZRANGEBYSCORE', DUE, '-inf', int(now_ms), 'LIMIT', 0, math.min(want - claimed, due_left))
  due_left = due_left - #ids
  for _, id in ipairs(ids) do
    moves_left = moves_left - 1
    local m, text = meta_read(id), call('HGET', BODY, id)
    if m and text and m.list == 'retry' then
      local clean = plain(text, m)
      call('LPUSH', PROCESSING, clean) -- refused when memory is full, before anything is taken out
      if take_from_retry(id, text) then
        deliver(id, m, clean, text)
      else
        call('LPOP', PROCESSING)
      end
    end
    call('ZREM', DUE, id)
  end
  if due_left == 0 then moves_left = 0 end -- the rest, and pending behind it, with the next claim
  return #ids > 0
end

-- A claim of ours was carried out but its answer never arrived: hand the same jobs out again, without
-- counting a second delivery; what is over goes back to the front.
local function recover()
  local stamps = {}
  for stamp in string.gmatch(lost, '%S+') do stamps[stamp] = true end
  for _, id in ipairs(call('ZRANGE', LEASE, 0, -1)) do
    local m, text = meta_read(id), call('HGET', BODY, id)
    if m and text and m.list == 'processing' and stamps[m.owner] then
      m.deliveries = m.deliveries - 1
      if claimed < want then
        deliver(id, m, text, text)
      elseif take_out(id, m, text) then
        call('RPUSH', LIST[m.home], text)
        call('ZREM', LEASE, id)
        if m.origin == 'raw' then
          forget(id)
        else
          m.list = m.home
          m.epoch = -m.epoch
          meta_write(id, m)
        end
      end
    end
  end
end

if lost ~= '' then recover() end
if call('EXISTS', PAUSED) == 1 then return {int(now_us), '-1', 1, rows} end

local function some(step)
  while claimed < want and moves_left > 0 do
    if not step() then break end
  end
end
some(function() return take('high') end)
some(take_due)
some(function() return take('pending') end)

-- Nothing is left that could be claimed: old wake-up tokens would only cause empty claims.
if claimed < want and moves_left > 0 then call('DEL', WAKE) end
local next_due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local wait = -1
if next_due[2] then wait = math.max(0, tonumber(next_due[2]) - now_ms) end
return {int(now_us), int(wait), 0, rows}
