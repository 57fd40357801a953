-- ARGV: id, element in the dead letters as it was read, home, new plain text. Returns 1 when it was moved.
local id, old, home, text = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local m = meta_read(id)
if m and m.list ~= 'failed' then return 0 end
if not call('LPOS', FAILED, old) then return 0 end
local epoch = m and -math.abs(m.epoch) or 0
meta_write(id, {epoch = epoch, deliveries = 0, list = home, home = home, origin = m and m.origin or 'own', keep = #text, owner = ''})
call('HSET', BODY, id, text)
call('LREM', FAILED, 1, old)
call('LPUSH', LIST[home], text)
wake()
return 1
