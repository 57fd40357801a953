-- A waiting job goes to the list Postgres names, as the text Postgres makes.
-- ARGV per job: id, epoch and list as they were read, target (high | pending | retry), length of the plain text,
-- element, due in ms (0 for none). Returns 1 or 0 per job.
local out = {}
local function reseat(id, epoch, from, target, keep, text, due)
  local m, old = meta_read(id), call('HGET', BODY, id)
  if not m or not old or m.epoch ~= epoch or m.list ~= from or call('ZSCORE', LEASE, id) then return 0 end
  if from == 'processing' or from == 'failed' then return 0 end
  local was = {list = from}
  m.list = target
  if target ~= 'retry' then m.home = target end
  m.keep = keep
  meta_write(id, m) -- refused first when memory is full, before anything is taken out
  take_out(id, was, old)
  call('HSET', BODY, id, text)
  call('ZREM', DUE, id)
  if target == 'retry' then
    put_in_retry(id, text)
    call('ZADD', DUE, int(due), id)
    if due - now_ms < 1500 then wake() end
  else
    call('RPUSH', LIST[target], text)
    wake()
  end
  return 1
end
for i = 1, #ARGV, 7 do
  out[#out + 1] = reseat(ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4]),
    ARGV[i + 5], tonumber(ARGV[i + 6]))
end
return out
