-- Puts a job that waits for its retry time back into the retry list, when Redis does not know it.
-- ARGV: id, home, length of the plain text, element, due in ms. Returns 1 or 0.
local id, home, keep, text, due = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
if call('HSETNX', META, id, '0|0|retry|' .. home .. '|own|' .. keep .. '|') == 0 then return 0 end
call('HSET', BODY, id, text)
put_in_retry(id, text)
call('ZADD', DUE, int(due), id)
if due - now_ms < 1500 then wake() end
return 1
