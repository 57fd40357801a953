-- Puts jobs that wait for their retry time back into the retry list, where Redis does not know them.
-- ARGV per job: id, home, length of the plain text, element, due in ms. Returns 1 or 0 per job.
local out = {}
for i = 1, #ARGV, 5 do
  local id, home, keep, text, due = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], tonumber(ARGV[i + 4])
  local fresh = call('HSETNX', META, id, '0|0|retry|' .. home .. '|own|' .. keep .. '|')
  if fresh == 1 then
    call('HSET', BODY, id, text)
    put_in_retry(id, text)
    call('ZADD', DUE, int(due), id)
    if due - now_ms < 1500 then wake() end
  end
  out[#out + 1] = fresh
end
return out
