-- What two readings of the queue running found astray; each is checked again here, where nothing can move.
-- ARGV in fours: kind, id, list, element ('' where a kind needs none). Returns how many were mended.
local mended = 0

local function copies(name, text)
  return #call('LPOS', LIST[name], text, 'COUNT', 0)
end

local function anywhere(text)
  for _, key in pairs(LIST) do
    if call('LPOS', key, text) then return true end
  end
  return false
end

local function remove_all(name, id, text)
  if name ~= 'retry' then return call('LREM', LIST[name], 0, text) end
  local gone = 0
  while take_from_retry(id, text) do gone = gone + 1 end
  return gone
end

-- A waiting job at the front of a line, or in the retry list while it has a due time.
local function put_back(id, m, text)
  if m.list == 'retry' and call('ZSCORE', DUE, id) then
    put_in_retry(id, text)
    return
  end
  if m.list == 'retry' or m.list == 'processing' then m.list = m.home end
  local clean = plain(text, m)
  m.keep = #clean
  meta_write(id, m)
  call('HSET', BODY, id, clean)
  call('RPUSH', LIST[m.list], clean)
  wake()
end

local mend = {}

-- Known, but in no list: forget it, so that it can be pushed again.
function mend.lost(id)
  local text = call('HGET', BODY, id)
  if call('ZSCORE', LEASE, id) or (text and anywhere(text)) then return 0 end
  if not text and call('HEXISTS', META, id) == 0 then return 0 end
  forget(id)
  return 1
end

-- In the wrong list, or more than once: one copy where the job belongs.
function mend.entry(id, list, text)
  local m, body = meta_read(id), call('HGET', BODY, id)
  if not m or not body then return 0 end
  if body ~= text then
    -- Another text under the id of a job we know: ours counts.
    return remove_all(list, id, text) > 0 and 1 or 0
  end
  local held = m.list == 'processing' and call('ZSCORE', LEASE, id)
  local right = (m.list ~= 'processing' or held) and copies(m.list, text) or 0
  if held and right == 0 then return 0 end -- the sweep's to put back
  local gone = 0
  -- A dead letter that an operator put in a line is a job like any other: the next claim takes it.
  for name in pairs(m.list == 'failed' and {} or LIST) do
    if name ~= m.list or not held and m.list == 'processing' then gone = gone + remove_all(name, id, text) end
  end
  if right > 1 then gone = gone + call('LREM', LIST[m.list], right - 1, text) end
  if gone == 0 then return 0 end
  if right == 0 then put_back(id, m, text) end
  return 1
end

-- An element of ours of which only half is known.
function mend.torn(id, list, text)
  local m, body = meta_read(id), call('HGET', BODY, id)
  if (m and body) or not (m or body) or call('ZSCORE', LEASE, id) or copies(list, text) == 0 then return 0 end
  if list == 'retry' then
    take_from_retry(id, text) -- its time may be gone too: forgotten, and pushed again
    forget(id)
  elseif list ~= 'processing' then
    local home = list == 'failed' and 'pending' or list
    local epoch = m and -math.abs(m.epoch) or 0
    meta_write(id, {epoch = epoch, deliveries = m and m.deliveries or 0, list = list, home = home,
      origin = m and m.origin or 'own', keep = #text, owner = ''})
    call('HSET', BODY, id, text)
    call('ZREM', DUE, id)
  else
    return 0
  end
  return 1
end

-- In the retry list without a due time: it would wait for ever.
function mend.retry(id, _, text)
  local due = id ~= '' and call('ZSCORE', DUE, id)
  local m = id ~= '' and call('HGET', BODY, id) == text and meta_read(id)
  if (due and m) or not call('LPOS', RETRY, text) then return 0 end
  local home, clean = 'pending', text
  if m then
    home = m.home
    clean = plain(text, m)
    m.list = home
    m.keep = #clean
    meta_write(id, m)
    call('HSET', BODY, id, clean)
  end
  call('LPUSH', LIST[home], clean)
  take_from_retry(id, text)
  wake()
  return 1
end

-- A due time of nothing that waits. A retry that was moved to another list goes back and needs it.
function mend.due(id)
  local m, text = meta_read(id), call('HGET', BODY, id)
  if m and m.list == 'retry' and text and anywhere(text) then return 0 end
  call('HDEL', PLACE, id)
  return call('ZREM', DUE, id)
end

-- A lease of nothing that is held.
function mend.lease(id)
  local m = meta_read(id)
  if m and m.list == 'processing' and call('HEXISTS', BODY, id) == 1 then return 0 end
  return call('ZREM', LEASE, id)
end

for i = 1, #ARGV, 4 do
  local fix = mend[ARGV[i]]
  if fix then mended = mended + fix(ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]) end
end
return mended
