-- ARGV: how many, lease in ms, owner stamp of this claim, stamps of claims whose answer was lost (joined by
-- blanks, may be empty), then one fresh id per wanted job.
-- Returns {server time in µs, ms until the next due retry or -1, 1 if paused, rows of
-- {id, epoch, deliveries, home, origin, text}}.
local want, ttl, owner, lost = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local fresh = 4
local rows = {}
local moves_left = want * 4 + 64

local function answer(id, m, text)
  rows[#rows + 1] = {id, int(m.epoch), int(m.deliveries), m.home, m.origin, text}
end

-- The element is at the head of processing already; count the delivery before it runs, so that a crash counts.
local function deliver(id, m, text)
  m.epoch = math.max(math.abs(m.epoch) + 1, now_us)
  m.deliveries = m.deliveries + 1
  m.list = 'processing'
  m.owner = owner
  m.keep = #text
  meta_write(id, m)
  call('HSET', BODY, id, text)
  call('ZADD', LEASE, int(now_ms + ttl), id)
  answer(id, m, text)
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
    deliver(id, m, clean)
  end
  return true
end

local function take_due()
  local ids = call('ZRANGEBYSCORE', DUE, '-inf', int(now_ms), 'LIMIT', 0, want - #rows)
  for _, id in ipairs(ids) do
    moves_left = moves_left - 1
    local m, text = meta_read(id), call('HGET', BODY, id)
    if m and text and m.list == 'retry' then
      meta_write(id, m) -- refused first when memory is full, before anything is taken out
      if take_from_retry(id, text) then
        local clean = plain(text, m)
        call('LPUSH', PROCESSING, clean)
        deliver(id, m, clean)
      end
    end
    call('ZREM', DUE, id)
  end
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
      if #rows < want then
        deliver(id, m, text)
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

if lost ~= '' then
  recover()
elseif call('EXISTS', HIGH, PENDING, DUE, WAKE) == 0 then
  return {int(now_us), '-1', 0, rows} -- an idle queue costs one question
end
if call('EXISTS', PAUSED) == 1 then return {int(now_us), '-1', 1, rows} end

local function some(step)
  while #rows < want and moves_left > 0 do
    if not step() then break end
  end
end
some(function() return take('high') end)
some(take_due)
some(function() return take('pending') end)

-- Nothing is left that could be claimed: old wake-up tokens would only cause empty claims.
if #rows < want and moves_left > 0 then call('DEL', WAKE) end
local next_due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
local wait = -1
if next_due[2] then wait = math.max(0, tonumber(next_due[2]) - now_ms) end
return {int(now_us), int(wait), 0, rows}
