-- Claims jobs that are all as we put them there, with the same few calls for many as for one. Changes nothing when one
-- of them is not, or a retry is due: `claim_any.lua` handles those. Here no function is made that is not needed.
-- ARGV: how many, lease in ms, owner stamp of this claim.
-- Returns nil when it changed nothing, else
-- {server time in µs, ms until the next due retry or -1, 1 if paused, {id, meta, text, id, meta, …}}.
local want, owner = tonumber(ARGV[1]), ARGV[3]
local epoch, expiry = int(now_us), int(now_ms + tonumber(ARGV[2]))
local rows = {}
if call('EXISTS', HIGH, PENDING, DUE, WAKE) == 0 then return {epoch, '-1', 0, rows} end -- idle: one question
if call('EXISTS', PAUSED) == 1 then return {epoch, '-1', 1, rows} end
local due = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')[2]
due = due and tonumber(due)
if due and due <= now_ms then return false end

-- First in line first.
local texts, ids, leases = {}, {}, {}
local function line_up(tail)
  for i = #tail, 1, -1 do
    local n = #texts + 1
    local id = string.sub(tail[i], 12, 47) -- where an element of ours has it
    texts[n], ids[n] = tail[i], id
    leases[2 * n - 1], leases[2 * n] = expiry, id
  end
  return #texts
end
local high = line_up(call('LRANGE', HIGH, -want, -1))
local count = high < want and line_up(call('LRANGE', PENDING, high - want, -1)) or high
local answer = {epoch, due and int(due - now_ms) or '-1', 0, rows}
-- Nothing more is left that could be claimed: old wake-up tokens would only cause empty claims.
if count < want then call('DEL', WAKE) end
if count == 0 then return answer end

-- Each id with its new meta: the delivery is counted before the job runs, so that a crash counts.
local bodies, before = call('HMGET', BODY, spread(ids)), call('HMGET', META, spread(ids))
local metas, seen, same = {}, {}, {}
for i = 1, count do
  local id, text, old = ids[i], texts[i], before[i]
  if not old or bodies[i] ~= text or seen[id] then return false end
  seen[id] = true
  if not same[old] then -- jobs pushed together have the same meta
    local e, d, l, h, o, k = string.match(old, '^(%-?%d+)|(%d+)|(%a+)|(%a+)|(%a+)|(%d+)|')
    if l ~= (i > high and 'pending' or 'high') or (h ~= 'high' and h ~= 'pending') then return false end
    if e ~= '0' then e = math.max(math.abs(tonumber(e)) + 1, now_us) end
    local new = (e == '0' and epoch or int(e)) .. '|' .. int(tonumber(d) + 1)
    same[old] = {new .. '|processing|' .. h .. '|' .. o .. '|' .. k .. '|' .. owner, tonumber(k)}
  end
  local meta, keep = same[old][1], same[old][2]
  if keep ~= #text then return false end
  metas[2 * i - 1], metas[2 * i] = id, meta
  rows[3 * i - 2], rows[3 * i - 1], rows[3 * i] = id, meta, text
end

-- The first call is refused when memory is full, before anything is taken out.
if count == 1 then
  call('LMOVE', high == 1 and HIGH or PENDING, PROCESSING, 'RIGHT', 'LEFT')
else
  call('LPUSH', PROCESSING, spread(texts))
  if high > 0 then call('LTRIM', HIGH, 0, -1 - high) end
  if count > high then call('LTRIM', PENDING, 0, high - count - 1) end
end
call('HSET', META, spread(metas))
call('ZADD', LEASE, spread(leases))
return answer
