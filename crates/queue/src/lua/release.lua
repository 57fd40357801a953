-- Ends a claim without ending the job: to the retry list, to the dead letters, or back to the front of the line.
-- ARGV: id, epoch, target (retry | failed | home), delay in ms, plain text, JSON before the time, JSON after it.
-- Returns 'ok', 'stale' or 'gone'. Repeating a release whose answer was lost is 'ok'.
local id, epoch, target, delay = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local text, before, after = ARGV[5], ARGV[6], ARGV[7]
local m = meta_read(id)
if not m then return 'gone' end
local list = target == 'home' and m.home or target
if m.epoch == -epoch and m.list == list then return 'ok' end
if m.epoch ~= epoch then return 'stale' end
local old = call('HGET', BODY, id)
local was = {list = m.list}
local due = math.floor((now_us + 999) / 1000) + delay
local element = text
if target ~= 'home' then
  local at = target == 'retry' and due * 1000 or now_us
  element = string.sub(text, 1, -2) .. before .. iso(at) .. after .. '}'
end
m.epoch = -epoch
m.list = list
m.keep = #text
-- A clean end breaks a row of crashes; a hand-back only takes back its own delivery.
m.deliveries = target == 'home' and math.max(0, m.deliveries - 1) or 0
meta_write(id, m)
call('HSET', BODY, id, element)
if old then take_out(id, was, old) end
call('ZREM', LEASE, id)
call('ZREM', DUE, id)
if target == 'home' then
  call('RPUSH', LIST[list], element)
  wake()
elseif target == 'failed' then
  call('LPUSH', FAILED, element)
else
  put_in_retry(id, element)
  call('ZADD', DUE, int(due), id)
  -- Idle workers ask at least once a second when the next retry is due; sooner ones need a call.
  if delay < 1500 then wake() end
end
return 'ok'
