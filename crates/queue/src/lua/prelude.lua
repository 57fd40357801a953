-- Shared by the scripts. `script.rs` puts before each script those paragraphs (parted by blank lines) whose names it uses,
-- since every function made costs time in each call. All scripts get the same KEYS, so each key they touch is declared.
-- `jobs:meta` holds per job "epoch|deliveries|list|home|origin|keep|owner":
--   epoch   number of the present claim (server time in µs, so it grows even when Redis lost everything);
--           negative once that claim was settled, 0 before the first claim
--   list    where the element is now; home: where it goes back to
--   origin  own (pushed by us), foreign (pushed by hand, made whole), raw (pushed by hand, not yet made whole)
--   keep    bytes of the plain job text; an element in retry or failed is that text with more fields behind

local HIGH, PENDING, PROCESSING, RETRY, FAILED = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local DUE, LEASE, META, BODY, WAKE = KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]

local PAUSED, INCARNATION, GUARD, SUSPECTS, PLACE = KEYS[11], KEYS[12], KEYS[13], KEYS[14], KEYS[15]

local LIST = {high = HIGH, pending = PENDING, processing = PROCESSING, retry = RETRY, failed = FAILED}

local call = redis.call

-- Lua 5.4 has the one, 5.1 the other.
local spread = table.unpack or unpack

-- Most jobs whose fields go into one call.
local MOST_SPREAD = 256

local time = call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now_ms = math.floor(now_us / 1000)

local function int(n)
  return string.format('%.0f', n)
end

-- RFC 3339 in UTC with six fraction digits.
local function iso(us)
  local s = math.floor(us / 1000000)
  local days = math.floor(s / 86400)
  local rest = s - days * 86400
  local z = days + 719468
  local era = math.floor(z / 146097)
  local doe = z - era * 146097
  local yoe = math.floor((doe - math.floor(doe / 1460) + math.floor(doe / 36524) - math.floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + math.floor(yoe / 4) - math.floor(yoe / 100))
  local mp = math.floor((5 * doy + 2) / 153)
  local day = doy - math.floor((153 * mp + 2) / 5) + 1
  local month = mp < 10 and mp + 3 or mp - 9
  local year = yoe + era * 400 + (month <= 2 and 1 or 0)
  local hour = math.floor(rest / 3600)
  local minute = math.floor((rest - hour * 3600) / 60)
  return string.format('%04.0f-%02.0f-%02.0fT%02.0f:%02.0f:%02.0f.%06.0fZ',
    year, month, day, hour, minute, rest - hour * 3600 - minute * 60, us - s * 1000000)
end

local META_PATTERN = '^(%-?%d+)|(%d+)|(%a+)|(%a+)|(%a+)|(%d+)|(.*)$'

local function meta_parse(text)
  local e, d, l, h, o, k, w = string.match(text, META_PATTERN)
  if not e or not LIST[l] or (h ~= 'high' and h ~= 'pending') then return nil end
  return {epoch = tonumber(e), deliveries = tonumber(d), list = l, home = h, origin = o, keep = tonumber(k), owner = w}
end

local function meta_read(id)
  local text = call('HGET', META, id)
  return text and meta_parse(text) or nil
end

local function meta_text(m)
  return int(m.epoch) .. '|' .. int(m.deliveries) .. '|' .. m.list .. '|' .. m.home .. '|'
    .. m.origin .. '|' .. int(m.keep) .. '|' .. m.owner
end

local function meta_write(id, m)
  call('HSET', META, id, meta_text(m))
end

-- The plain job text of an element.
local function plain(text, m)
  if m.keep > 1 and #text > m.keep then return string.sub(text, 1, m.keep - 1) .. '}' end
  return text
end

local function job_id_of(text)
  return string.match(text, '^{"job_id":"(%x%x%x%x%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%-%x%x%x%x%x%x%x%x%x%x%x%x)"')
end

-- `jobs:retry:place` holds job_id -> place in the retry list, counted from the tail, where pushes at the head
-- do not change it. Retries come due in any order, and LREM would walk through half of a long list each time.
local function put_in_retry(id, text)
  call('HSET', PLACE, id, int(call('LPUSH', RETRY, text)))
end

-- Fills the hole with the element at the head, so that no other place changes.
local function take_from_retry(id, text)
  local place = tonumber(call('HGET', PLACE, id) or '0')
  call('HDEL', PLACE, id)
  local size = call('LLEN', RETRY)
  if place < 1 or call('LINDEX', RETRY, int(-place)) ~= text then
    local index = call('LPOS', RETRY, text, 'RANK', -1) -- moved by hand
    if not index then return false end
    place = size - index
  end
  if place < size then
    local head = call('LINDEX', RETRY, 0)
    call('LSET', RETRY, int(-place), head)
    local head_id = job_id_of(head)
    if head_id then call('HSET', PLACE, head_id, int(place)) end
  end
  call('LPOP', RETRY)
  return true
end

-- Takes one copy of the element out of the list its meta names; true when it was there.
local function take_out(id, m, text)
  if m.list == 'retry' then return take_from_retry(id, text) end
  local from_head = (m.list == 'processing' or m.list == 'failed') and 1 or -1
  return call('LREM', LIST[m.list], from_head, text) == 1
end

local function forget_all(ids)
  if #ids == 0 then return end
  call('HDEL', META, spread(ids))
  call('HDEL', BODY, spread(ids))
  call('ZREM', LEASE, spread(ids))
  call('ZREM', DUE, spread(ids))
  call('HDEL', PLACE, spread(ids))
end

local function forget(id)
  forget_all({id})
end

local WAKE_CAP = 128

-- Tokens for `count` new jobs; one when none is given.
local function wake(count)
  local tokens = {}
  for i = 1, math.min(count or 1, WAKE_CAP) do tokens[i] = '1' end
  if call('LPUSH', WAKE, spread(tokens)) > WAKE_CAP then call('LTRIM', WAKE, 0, WAKE_CAP - 1) end
end
